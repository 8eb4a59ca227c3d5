//! Publishes core/v1 Events in upstream's form. Events are sent on change only, so there is nothing to aggregate; one
//! that cannot be sent is logged, never an obstacle.

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference},
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{
    Api, Client, Resource,
    api::{ObjectMeta, PostParams},
};

/// Whether an Event asks for attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr)]
pub enum Severity {
    /// As it should be.
    Normal,
    /// Somebody should look.
    Warning,
}

/// Sends Events.
#[derive(Clone)]
pub struct Events {
    client: Client,
    component: &'static str,
}

impl Events {
    /// `component` is what an Event names as its source.
    pub fn new(client: Client, component: &'static str) -> Self {
        Self { client, component }
    }

    /// Says something about an object.
    pub async fn publish<K>(&self, object: &K, severity: Severity, reason: &str, message: &str)
    where
        K: Resource<DynamicType = ()>,
    {
        let now = Timestamp::now();
        let about: ObjectReference = object.object_ref(&());
        let name = about.name.clone().unwrap_or_default();
        let namespace = about.namespace.clone().unwrap_or_else(|| "default".to_owned());
        let event = Event {
            metadata: ObjectMeta {
                name: Some(format!("{name}.{:x}", now.as_nanosecond())),
                namespace: Some(namespace.clone()),
                ..ObjectMeta::default()
            },
            involved_object: ObjectReference { resource_version: None, ..about },
            type_: Some(<&str>::from(severity).to_owned()),
            reason: Some(reason.to_owned()),
            message: Some(message.chars().take(1024).collect()), // the API server's limit
            source: Some(EventSource { component: Some(self.component.to_owned()), host: None }),
            reporting_component: Some(self.component.to_owned()),
            first_timestamp: Some(Time(now)),
            last_timestamp: Some(Time(now)),
            count: Some(1),
            ..Event::default()
        };
        let api: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        if let Err(error) = api.create(&PostParams::default(), &event).await {
            tracing::warn!(%error, namespace, name, reason, "cannot publish an Event");
        }
    }
}
