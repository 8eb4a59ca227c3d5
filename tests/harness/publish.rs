//! Makes a Service of the cluster lead to a process on loopback: by a hand-made Pod whose status says that it runs, and
//! Endpoints that name it. What the API server checks is real; only the kubelet's part is played. It must not change
//! the Service's selector or ports: those are the manifests' to get right.

use std::{collections::BTreeMap, net::Ipv4Addr};

use anyhow::{Context as _, Result};
use k8s_openapi::{
    api::core::v1::{Endpoints, Pod, Service, ServicePort, ServiceSpec},
    apimachinery::pkg::util::intstr::IntOrString,
};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams},
};
use serde_json::json;

use crate::Cluster;

/// Marks the Pods made here, by the Service that they stand behind.
const LABEL: &str = "harness.signet.dev/service";
const MANAGER: &str = "harness";

/// One port of a Service and the loopback port that it shall lead to.
#[derive(Clone, Copy, Debug)]
pub struct PublishedPort<'a> {
    /// The port's name in the Service ("" for none).
    pub name: &'a str,
    /// The port's number in the Service, used when the Service is made here.
    pub port: u16,
    pub loopback_port: u16,
}

impl Cluster {
    /// From now on the Service, which is made when absent, leads to this process and no other.
    pub async fn publish_service(&self, namespace: &str, service: &str, port: PublishedPort<'_>) -> Result<()> {
        let _alone = self.publishing.lock().await;
        let client = self.admin().await?;
        let found = service_or_new(&client, namespace, service, port).await?;
        let spec = found.spec.context("the Service has no spec")?;
        let selector = spec.selector.unwrap_or_default();
        let (target, target_name) = target(spec.ports.as_deref().unwrap_or_default(), port);

        let ip = self.next_pod_ip()?;
        self.proxy.route(ip, target, port.loopback_port);
        let labels = selector.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        let pod = replace_pod(&client, namespace, service, labels, (target, target_name), ip).await?;

        let endpoints: Api<Endpoints> = Api::namespaced(client, namespace);
        let reference =
            json!({ "kind": "Pod", "namespace": namespace, "name": pod.metadata.name, "uid": pod.metadata.uid });
        let mut endpoint_port = json!({ "port": target });
        if !port.name.is_empty() {
            endpoint_port["name"] = json!(port.name);
        }
        let subset = json!({ "addresses": [{ "ip": ip, "targetRef": reference }], "ports": [endpoint_port] });
        let wanted = json!({
            "apiVersion": "v1", "kind": "Endpoints", "metadata": { "name": service }, "subsets": [subset],
        });
        endpoints.patch(service, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&wanted)).await?;
        Ok(())
    }
}

async fn service_or_new(client: &Client, namespace: &str, name: &str, port: PublishedPort<'_>) -> Result<Service> {
    let services: Api<Service> = Api::namespaced(client.clone(), namespace);
    if let Some(found) = services.get_opt(name).await? {
        return Ok(found);
    }
    let port_name = (!port.name.is_empty()).then(|| port.name.to_owned());
    let ports = vec![ServicePort { name: port_name, port: port.port.into(), ..ServicePort::default() }];
    let service = Service {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        spec: Some(ServiceSpec { ports: Some(ports), ..ServiceSpec::default() }),
        ..Service::default()
    };
    Ok(services.create(&PostParams::default(), &service).await?)
}

/// The pod's port number and, when the Service asks for it by name, its name.
fn target(ports: &[ServicePort], published: PublishedPort<'_>) -> (u16, Option<String>) {
    let matching = ports.iter().find(|port| port.name.as_deref().unwrap_or_default() == published.name);
    let number = |wide: i32| u16::try_from(wide).unwrap_or(published.port);
    match matching {
        None => (published.port, None),
        Some(port) => match &port.target_port {
            None => (number(port.port), None),
            Some(IntOrString::Int(target)) => (number(*target), None),
            Some(IntOrString::String(name)) => (published.port, Some(name.clone())),
        },
    }
}

/// Puts a Pod that "runs" at `ip` in the place of those made before. It gets no `nodeName`: garbage collection removes
/// the Pods of nodes that do not exist.
async fn replace_pod(
    client: &Client,
    namespace: &str,
    service: &str,
    mut labels: BTreeMap<String, String>,
    (port, port_name): (u16, Option<String>),
    ip: Ipv4Addr,
) -> Result<Pod> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let before = ListParams::default().labels(&format!("{LABEL}={service}"));
    pods.delete_collection(&DeleteParams::default().grace_period(0), &before).await?;

    labels.insert(LABEL.to_owned(), service.to_owned());
    let mut container_port = json!({ "containerPort": port });
    if let Some(name) = port_name {
        container_port["name"] = json!(name);
    }
    let pod: Pod = serde_json::from_value(json!({
        "metadata": { "generateName": format!("{service}-"), "labels": labels },
        "spec": { "containers": [{ "name": "loopback", "image": "none", "ports": [container_port] }] },
    }))?;
    let made = pods.create(&PostParams::default(), &pod).await?;
    let name = made.metadata.name.as_deref().context("the API server made a Pod without a name")?;
    let status = json!({ "status": {
        "phase": "Running",
        "podIP": ip,
        "podIPs": [{ "ip": ip }],
        "conditions": [{ "type": "Ready", "status": "True" }],
    }});
    Ok(pods.patch_status(name, &PatchParams::default(), &Patch::Merge(&status)).await?)
}
