//! How many objects wait for their pass, for how long, and whether passes go on once they began. Looks on: the order is
//! the scheduler's.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
    time::Instant,
};

use kube::runtime::reflector::{Lookup, ObjectRef};
use parking_lot::Mutex;

use crate::{
    health::{LOOP, PASS},
    metrics::{Metrics, QueueName},
    pulse::{Pulse, Pulses},
};

/// Namespace and name.
type Key = (Option<String>, String);

/// Objects of one kind that were asked for and not begun, with the time of the first asking.
#[derive(Clone)]
pub struct Queue {
    waiting: Arc<Mutex<HashMap<Key, Instant>>>,
    metrics: Metrics,
    pulses: Pulses,
    name: QueueName,
}

impl Queue {
    /// Empty.
    pub fn new(name: &'static str, metrics: Metrics, pulses: Pulses) -> Self {
        let name = QueueName { queue: name };
        drop(metrics.queue_depth.get_or_create(&name)); // told even while it is 0
        Self { waiting: Arc::default(), metrics, pulses, name }
    }

    /// A pass was asked for.
    pub fn enter<K: Lookup>(&self, object: &ObjectRef<K>) {
        if let Entry::Vacant(place) = self.waiting.lock().entry(key(object)) {
            place.insert(Instant::now());
            self.metrics.queue_depth.get_or_create(&self.name).inc();
        }
    }

    /// Its pass begins, or there is nothing left to pass over.
    pub fn leave<K: Lookup>(&self, object: &ObjectRef<K>) {
        if let Some(since) = self.waiting.lock().remove(&key(object)) {
            self.metrics.queue_depth.get_or_create(&self.name).dec();
            self.metrics.queue_waits.get_or_create(&self.name).observe(since.elapsed().as_secs_f64());
        }
    }

    /// The pass over an object, as something that has to go on.
    pub fn pass<K: Lookup>(&self, object: &ObjectRef<K>) -> Pulse {
        let about = object.namespace.iter().chain([&object.name]).cloned().collect::<Vec<_>>().join("/");
        self.pulses.begin(self.name.queue, about, PASS)
    }

    /// The same of the loop that makes the passes.
    pub fn turning(&self) -> Pulse {
        self.pulses.begin(self.name.queue, "", LOOP)
    }

    /// Nobody works on it any more.
    pub fn close(&self) {
        let left = std::mem::take(&mut *self.waiting.lock()).len();
        self.metrics.queue_depth.get_or_create(&self.name).dec_by(i64::try_from(left).unwrap_or(i64::MAX));
    }
}

fn key<K: Lookup>(object: &ObjectRef<K>) -> Key {
    (object.namespace.clone(), object.name.clone())
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use k8s_openapi::api::core::v1::Secret;

    use super::*;

    #[test]
    fn an_object_waits_once_however_often_it_is_asked_for() {
        let metrics = Metrics::new(Timestamp::UNIX_EPOCH);
        let queue = Queue::new("unseal", metrics.clone(), Pulses::default());
        let (one, two) = (ObjectRef::<Secret>::new("one"), ObjectRef::<Secret>::new("two"));
        [&one, &one, &two].into_iter().for_each(|object| queue.enter(object));
        let depth = || metrics.queue_depth.get_or_create(&QueueName { queue: "unseal" }).get();
        assert_eq!(depth(), 2);
        [&one, &one].into_iter().for_each(|object| queue.leave(object));
        assert_eq!(depth(), 1);
        queue.close();
        assert_eq!(depth(), 0);
        let told = metrics.queue_waits.get_or_create(&QueueName { queue: "unseal" }).clone();
        let mut registry = prometheus_client::registry::Registry::default();
        registry.register("waits", "", told);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        assert!(text.contains("waits_count 1\n"), "{text}");
    }
}
