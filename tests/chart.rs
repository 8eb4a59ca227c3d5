//! The chart of `deploy/chart` with the real helm, on a real API server.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context as _, Result};
use harness::{Cluster, binaries, chart, command, shared};
use serde_json::{Map, Value, json};

use crate::world::{definition, document};

/// What the chart sets itself.
const NOT_VALUES: [&str; 4] = ["namespace", "identity", "version", "help"];

/// One value for each flag, none of them the default.
fn every_flag() -> Value {
    let mut every = json!({
        "kubeconfig": "/nowhere/at/all", "leaderElect": false, "kubeclientQps": 0.5, "kubeclientBurst": 1_000_000,
        "keyPrefix": "key", "keySize": 2048, "keyTtl": "1h30m", "keyRenewPeriod": 0, "waitForKeys": true,
        "keyCutoffTime": "Mon, 02 Jan 2006 15:04:05 -0700", "keyOrderPriority": "SecretCreationTimestamp",
        "myCn": "us", "privatekeyAnnotations": {"a.example.com/b": "c,d=e"}, "privatekeyLabels": {"a": "b", "c": "d"},
        "allNamespaces": false, "additionalNamespaces": ["a", "b"], "namespaceSelector": "", "labelSelector": "a=b,c!=d",
        "acceptDeprecatedV1Data": false, "updateStatus": false, "skipRecreate": true, "oldGcBehavior": true,
        "maxUnsealRetries": 0, "listenAddr": ":9080", "listenMetricsAddr": "0.0.0.0:9081", "readTimeout": "1m",
        "writeTimeout": "90s", "authenticate": true, "rateLimit": 7, "rateLimitBurst": 0,
        "metricsOmitSecretLabels": true, "gitSync": false, "gitCache": "/cache", "gitFileRoot": "/files",
        "gitMaxSize": "64Mi", "gitTimeout": "5s", "kustomize": "/bin/kustomize", "helm": "/bin/helm", "syncServiceAccount": "sync",
        "logLevel": "DEBUG", "logFormat": "json", "logInfoStdout": false,
    });
    every["defaultServiceAccount"] = "tenant".into(); // more than json! can take at once
    every["insecureKubeconfigTls"] = true.into();
    every["renderMemory"] = "128Mi".into();
    every["leaderElectionLeaseDuration"] = "60s".into();
    every["leaderElectionRenewDeadline"] = "40s".into();
    every["leaderElectionRetryPeriod"] = "8s".into();
    every["otlpEndpoint"] = "http://127.0.0.1:4318".into();
    every["otlpTracesEndpoint"] = "http://127.0.0.1:4318/traces".into();
    every
}

/// Renders with these values and no others.
async fn rendered(values: &Value) -> Result<Vec<Value>> {
    let folder = tempfile::tempdir()?;
    let text = chart::template(&[&written(folder.path(), values)?]).await?.success()?;
    let documents = crds::yaml::documents(&text).into_iter().map(|document| document.value);
    Ok(documents.collect::<Result<_, _>>()?)
}

fn written(folder: &Path, values: &Value) -> Result<String> {
    let file = folder.join("values.yaml");
    fs::write(&file, values.to_string())?;
    Ok(format!("--values={}", file.display()))
}

fn of_kind<'a>(objects: &'a [Value], kind: &'a str) -> impl Iterator<Item = &'a Value> {
    objects.iter().filter(move |object| object["kind"] == kind)
}

fn container(objects: &[Value]) -> &Value {
    &of_kind(objects, "Deployment").next().unwrap()["spec"]["template"]["spec"]["containers"][0]
}

#[test]
fn the_chart_is_of_this_version() -> Result<()> {
    let about = document(&fs::read_to_string(chart::folder().join("chart/Chart.yaml"))?)?;
    for field in ["version", "appVersion"] {
        assert_eq!(about[field], env!("CARGO_PKG_VERSION"), "{field}");
    }
    Ok(())
}

#[tokio::test]
async fn every_flag_is_a_value_that_the_controller_takes() -> Result<()> {
    let program = binaries::signet_controller().await?;
    let home = tempfile::tempdir()?;
    let help = command::run(command::clean(&program, home.path()).arg("--help"), b"").await?.success()?;
    let flags: BTreeSet<&str> = help
        .lines()
        .filter_map(|line| line.trim_start_matches(' ').trim_start_matches("-h, ").strip_prefix("--"))
        .filter_map(|line| line.split(['[', ' ']).next())
        .filter(|flag| !NOT_VALUES.contains(flag))
        .collect();
    let schema: Value = serde_json::from_slice(&fs::read(chart::folder().join("chart/values.schema.json"))?)?;
    let named = |flags: &Map<String, Value>| flags.keys().map(|flag| kebab(flag)).collect::<BTreeSet<_>>();
    let values = named(schema["properties"]["flags"]["properties"].as_object().context("no flags in the schema")?);
    assert_eq!(values, flags.iter().map(|flag| (*flag).to_owned()).collect());
    assert_eq!(named(every_flag().as_object().context("no flags")?), values, "each is tried here");

    let objects = rendered(&json!({"flags": every_flag()})).await?;
    let args: Vec<&str> = container(&objects)["args"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert_eq!(args.len(), values.len() - 1, "an empty one is left out: {args:?}");
    for arg in ["--update-status=false", "--kubeclient-burst=1000000", "--max-unseal-retries=0", "--key-renew-period=0"]
    {
        assert!(args.contains(&arg), "{arg} in {args:?}");
    }
    let mut controller = command::clean(&program, home.path());
    let output = command::run(controller.args(args).env("POD_NAMESPACE", "x"), b"").await?;
    assert!(output.stderr.contains("/nowhere/at/all"), "it took all of them: {output}");
    let ports = container(&objects)["ports"].to_string();
    assert!(ports.contains("9080") && ports.contains("9081"), "{ports}");
    Ok(())
}

fn kebab(flag: &str) -> String {
    let dashed = |c: char| [c.is_ascii_uppercase().then_some('-'), Some(c.to_ascii_lowercase())];
    flag.chars().flat_map(dashed).flatten().collect()
}

#[tokio::test]
async fn wrong_values_are_refused_by_name() -> Result<()> {
    for (wrong, told) in [
        ("flags.keySize=1000", "/flags/keySize"),
        ("flags.updateStatus=no", "/flags/updateStatus"),
        ("flags.keyRenewPeriod=30d", "/flags/keyRenewPeriod"),
        ("flags.unsealRetries=3", "unsealRetries"),
        ("flags.otlpEndpoint=collector:4317", "/flags/otlpEndpoint"),
        ("flags.additionalNamespaces={a},flags.namespaceSelector=b", "/flags"),
        ("flags.additionalNamespaces={a_b}", "/flags/additionalNamespaces"),
        ("flags.additionalNamespaces={a},flags.gitSync=true", "GitSyncs are followed in all namespaces or not at all"),
        ("replicas=0", "/replicas"),
        ("replicas=2,flags.leaderElect=false", "without flags.leaderElect there can be one only"),
        ("strategy.type=RollingUpdate,flags.leaderElect=false", "without flags.leaderElect there can be one only"),
        ("strategy.type=OnDelete", "/strategy/type"),
        ("image.digest=abc", "/image/digest"),
        ("prometheusRule.runbook=https://example.com/#it", "/prometheusRule/runbook"),
        ("serviceProxier.verbs={delete}", "/serviceProxier/verbs"),
        ("updateStatus=false", "updateStatus"),
        ("flags.gitTimeout=0", "/flags/gitTimeout"),
        ("flags.gitCache=cache", "/flags/gitCache"),
        ("flags.keyTtl=0s", "/flags/keyTtl"),
        ("flags.kubeclientQps=0", "/flags/kubeclientQps"),
        ("flags.gitMaxSize=0", "/flags/gitMaxSize"),
        ("flags.renderMemory=0Mi", "/flags/renderMemory"),
        ("flags.keyCutoffTime=yesterday", "/flags/keyCutoffTime"),
        ("flags.privatekeyLabels=abc", "/flags/privatekeyLabels"),
        ("flags.listenAddr=:99999", "/flags/listenAddr"),
        ("flags.listenMetricsAddr=localhost:8081", "/flags/listenMetricsAddr"),
        ("flags.otlpEndpoint=https://me:secret@collector:4317", "/flags/otlpEndpoint"),
        // A Service of that name, or of it with "-metrics", is refused by the API server.
        ("fullnameOverride=a.b", "/fullnameOverride"),
        ("fullnameOverride=9abc", "/fullnameOverride"),
        ("fullnameOverride=a23456789-a23456789-a23456789-a23456789-a23456789-a23456", "/fullnameOverride"),
        // As a section of which all is commented out.
        ("flags=null", "missing property 'flags'"),
        ("networkPolicy=null", "missing property 'networkPolicy'"),
        // These would stand there twice.
        (r"podLabels.app\.kubernetes\.io/name=mine", "invalid propertyName 'app.kubernetes.io/name'"),
        ("extraPodSpec.containers={}", "invalid propertyName 'containers'"),
        ("serviceMonitor.endpoint.port=http", "invalid propertyName 'port'"),
    ] {
        let output = chart::template(&["--set", wrong]).await?;
        assert!(!output.status.success() && output.stderr.contains(told), "{wrong}: {output}");
    }
    Ok(())
}

/// A reader of YAML may refuse a key that stands twice in a mapping; ours does.
#[tokio::test]
async fn a_label_of_its_own_takes_the_place_of_that_of_all() -> Result<()> {
    let aggregated = "rbac.authorization.k8s.io/aggregate-to-view";
    let objects = rendered(&json!({
        "labels": {"team": "all", "tier": "all", "grafana_dashboard": "all", aggregated: "false"}, "podLabels": {"team": "own"},
        "serviceMonitor": {"enabled": true, "labels": {"team": "own"}},
        "prometheusRule": {"enabled": true, "labels": {"team": "own"}},
        "dashboard": {"enabled": true, "labels": {"team": "own"}},
        "syncOperator": {"subjects": [{"kind": "ServiceAccount", "name": "ops", "namespace": "kube-system"}]},
    }))
    .await?;
    let labels = |kind: &str| of_kind(&objects, kind).next().unwrap()["metadata"]["labels"].clone();
    let of_pods = &of_kind(&objects, "Deployment").next().unwrap()["spec"]["template"]["metadata"]["labels"];
    for own in [of_pods.clone(), labels("ServiceMonitor"), labels("PrometheusRule"), labels("ConfigMap")] {
        assert_eq!((&own["team"], &own["tier"]), (&json!("own"), &json!("all")), "{own}");
    }
    assert_eq!(
        (&labels("Deployment")["team"], &labels("ConfigMap")["grafana_dashboard"]),
        (&json!("all"), &json!("1"))
    );
    let viewer =
        of_kind(&objects, "ClusterRole").find(|role| role["metadata"]["name"] == "signet-sync-viewer").unwrap();
    assert_eq!(viewer["metadata"]["labels"][aggregated], "true");
    Ok(())
}

/// What lies in no namespace must have another name in another installation. Only one can follow GitSyncs.
#[tokio::test]
async fn two_installations_share_no_name() -> Result<()> {
    let people = json!({"subjects": [{"kind": "ServiceAccount", "name": "ops", "namespace": "kube-system"}]});
    let mut names = Vec::new();
    for name in ["sealed-secrets-controller", "team-controller"] {
        let flags = json!({"namespaceSelector": "team=blue", "authenticate": true});
        let values = json!({
            "fullnameOverride": name, "flags": flags, "crds": {"install": false}, "keysOperator": people, "syncOperator": people,
        });
        let objects = rendered(&values).await?;
        let cluster = objects.iter().filter(|object| object["metadata"]["namespace"].is_null());
        names.push(cluster.map(|object| format!("{} {}", object["kind"], object["metadata"]["name"])).collect());
    }
    let [one, other]: [BTreeSet<String>; 2] = names.try_into().unwrap();
    assert!(one.is_disjoint(&other) && one.len() == other.len() && one.len() > 8, "{one:?} {other:?}");
    assert!(one.contains(r#""ClusterRole" "signet-keys-operator""#), "as docs call it: {one:?}");
    Ok(())
}

/// The combinations that make other objects, each as the real API server takes it.
#[tokio::test]
async fn what_is_rendered_is_applied() -> Result<()> {
    let cluster = shared().await?;
    let place = cluster.namespace("chart").await?;
    for kind in ["ServiceMonitor", "PrometheusRule"] {
        cluster.apply(&definition("monitoring.coreos.com", kind)).await?;
    }
    cluster.established(&["servicemonitors.monitoring.coreos.com", "prometheusrules.monitoring.coreos.com"]).await?;
    let hardened = json!({
        "replicas": 3, "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}},
        "imagePullSecrets": [{"name": "registry"}], "priorityClassName": "system-cluster-critical",
        "image": {"repository": "registry.example.com/signet", "digest": format!("sha256:{}", "0".repeat(64))},
        "serviceAccount": {"annotations": {"a": "b"}}, "service": {"annotations": {"a": "b"}},
        "networkPolicy": {"enabled": true, "metrics": [{"namespaceSelector": {}}], "egress": [{"ports": [{"port": 443}]}]},
        "podDisruptionBudget": {"enabled": true}, "dashboard": {"enabled": true, "annotations": {"a": "b"}},
        "serviceMonitor": {"enabled": true, "interval": "30s", "endpoint": {"scrapeTimeout": "5s"}, "labels": {"a": "b"}},
        "prometheusRule": {"enabled": true, "labels": {"a": "b"}, "runbook": "https://example.com/runbook"},
        "nodeSelector": {"kubernetes.io/os": "linux"}, "tolerations": [{"operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}],
        "labels": {"team": "platform"}, "annotations": {"a": "b"}, "podLabels": {"a": "b"}, "podAnnotations": {"a": "b"},
        "extraArgs": ["--log-level=DEBUG"], "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy"}],
        "extraVolumes": [{"name": "more", "emptyDir": {}}], "extraVolumeMounts": [{"name": "more", "mountPath": "/more"}],
        "extraPodSpec": {"hostAliases": [{"ip": "10.0.0.1", "hostnames": ["git.example.com"]}], "hostNetwork": false},
        "extraObjects": [
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "extra", "namespace": "{{ .Release.Namespace }}"}},
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: text, namespace: kube-system}",
        ],
        "keysOperator": {"subjects": [{"kind": "ServiceAccount", "name": "ops", "namespace": "kube-system"}]},
        "syncOperator": {"subjects": [{"kind": "ServiceAccount", "name": "ops", "namespace": "kube-system"}]},
    });
    let alone =
        json!({"flags": {"leaderElect": false}, "crds": {"install": false}, "networkPolicy": {"enabled": true}});
    let mut every = json!({"flags": every_flag(), "rbac": {"bindNamespaces": false}});
    every["flags"]["namespaceSelector"] = Value::Null;
    for values in [
        json!({}),
        hardened,
        alone,
        every,
        json!({"flags": {"gitSync": false}, "strategy": {"type": "Recreate"}}),
        json!({"flags": {"allNamespaces": false}}),
        json!({"flags": {"additionalNamespaces": [place]}}),
        json!({"flags": {"namespaceSelector": "team=blue"}}),
        json!({"flags": {"authenticate": true}, "sync": {"clusterRole": ""}}),
        json!({"rbac": {"create": false}, "serviceAccount": {"create": false, "name": "mine"}, "serviceProxier": {"subjects": []}}),
        // As OpenShift wants it.
        json!({"podSecurityContext": {"runAsUser": null, "fsGroup": null}, "resources": null, "livenessProbe": null}),
        json!({"fullnameOverride": "", "serviceProxier": {"verbs": ["get"]}}),
    ] {
        let folder = tempfile::tempdir()?;
        let file = written(folder.path(), &values)?;
        let chart = chart::folder().join("chart");
        chart::helm(&["lint", "--strict", chart.to_str().context("UTF-8")?, &file]).await?.success()?;
        let text = chart::template(&[&file]).await?.success()?;
        let apply = ["apply", "--server-side", "--dry-run=server", "--validate=strict", "--filename=-"];
        let applied = cluster.kubectl_as(cluster.kubeconfig(), &apply, &text).await?.success();
        applied.with_context(|| format!("with {values}"))?;
    }
    Ok(())
}

/// Where a platform is one chart, of which each part can be switched off.
#[tokio::test]
async fn it_can_be_a_part_of_another_chart() -> Result<()> {
    let whole = tempfile::tempdir()?;
    fs::create_dir(whole.path().join("charts"))?;
    std::os::unix::fs::symlink(chart::folder().join("chart"), whole.path().join("charts/signet"))?;
    let part = json!({"name": "signet", "version": env!("CARGO_PKG_VERSION"), "condition": "signet.enabled"});
    let about = json!({"apiVersion": "v2", "name": "platform", "version": "1.0.0", "dependencies": [part]});
    fs::write(whole.path().join("Chart.yaml"), about.to_string())?;
    fs::write(whole.path().join("values.yaml"), json!({"signet": {"enabled": true}}).to_string())?;
    let whole = whole.path().to_str().context("UTF-8")?;
    for (wanted, is_there) in [("true", true), ("false", false)] {
        let set = format!("--set=signet.enabled={wanted}");
        let text = chart::helm(&["template", "platform", whole, &set]).await?.success()?;
        assert_eq!(text.contains("kind: Deployment"), is_there, "{wanted}");
    }
    Ok(())
}

#[tokio::test]
async fn the_dashboard_is_what_its_sidecar_looks_for() -> Result<()> {
    let objects = rendered(&json!({"dashboard": {"enabled": true}})).await?;
    let map = of_kind(&objects, "ConfigMap").next().context("no ConfigMap")?;
    assert_eq!(map["metadata"]["labels"]["grafana_dashboard"], "1");
    let loaded: Value = serde_json::from_str(map["data"]["signet.json"].as_str().context("no dashboard")?)?;
    let kept: Value = serde_json::from_slice(&fs::read(chart::folder().join("monitoring/dashboard.json"))?)?;
    assert_eq!(loaded, kept);
    Ok(())
}

#[tokio::test]
async fn the_pod_is_as_restricted_demands() -> Result<()> {
    let cluster = shared().await?;
    let namespace = cluster.namespace("restricted").await?;
    cluster.kubectl(&["label", "namespace", &namespace, "pod-security.kubernetes.io/enforce=restricted"]).await?;
    let create = async |spec: &Value| {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "it", "namespace": namespace}, "spec": spec});
        let flags = ["create", "--dry-run=server", "--filename=-"];
        cluster.kubectl_as(cluster.kubeconfig(), &flags, &pod.to_string()).await
    };
    let objects = rendered(&json!({})).await?;
    let mut spec = of_kind(&objects, "Deployment").next().unwrap()["spec"]["template"]["spec"].clone();
    create(&spec).await?.success()?;
    spec["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = json!(true);
    let refused = create(&spec).await?;
    assert!(refused.stderr.contains("violates PodSecurity"), "it is looked at: {refused}");
    Ok(())
}

/// Upstream's chart neither upgrades its definitions nor keeps what hangs on them.
#[tokio::test]
async fn definitions_are_upgraded_with_the_release_and_stay_without_it() -> Result<()> {
    let cluster = Cluster::start().await?;
    let chart = chart::folder().join("chart");
    let old = cluster.scratch().path().join("old-chart");
    let status = std::process::Command::new("cp").arg("-rL").args([&chart, &old]).status()?;
    assert!(status.success());
    let definitions = old.join("files/crds.yaml");
    let text = fs::read_to_string(&definitions)?;
    assert!(text.contains("- gs\n"), "the short name stands in the definitions");
    fs::write(&definitions, text.replace("- gs\n", "- oldname\n"))?;
    let names = ["get", "crd", "gitsyncs.signet.dev", "-o", "jsonpath={.spec.names.shortNames}"];
    let flags = ["signet", "--namespace=kube-system"];
    let (old, new) = (old.to_str().context("UTF-8")?, chart.to_str().context("UTF-8")?);
    cluster.helm(&[&["install"], &flags[..], &[old]].concat()).await?;
    assert_eq!(cluster.kubectl(&names).await?, r#"["oldname"]"#);
    // What the API server made of the old strategy must not stand in the way of another.
    cluster.helm(&[&["upgrade", "--set=strategy.type=Recreate"], &flags[..], &[new]].concat()).await?;
    assert_eq!(cluster.kubectl(&names).await?, r#"["gs"]"#);
    cluster.established(&["gitsyncs.signet.dev", "sealedsecrets.bitnami.com"]).await?;
    let sealed = json!({
        "apiVersion": "bitnami.com/v1alpha1", "kind": "SealedSecret",
        "metadata": {"name": "db", "namespace": "default"}, "spec": {"encryptedData": {"a": "AgA="}},
    });
    cluster.apply(&sealed.to_string()).await?;
    cluster.helm(&[&["uninstall"], &flags[..]].concat()).await?;
    assert!(cluster.kubectl(&["-n", "kube-system", "get", "deployments"]).await?.is_empty());
    cluster.kubectl(&["-n", "default", "get", "sealedsecret", "db"]).await?;
    // What is there already is taken over, and so by the next release too.
    cluster.helm(&[&["install", "--take-ownership"], &flags[..], &[new]].concat()).await?;
    cluster.kubectl(&["-n", "default", "get", "sealedsecret", "db"]).await?;
    Ok(())
}
