//! The audit record: a line of the log for each object that was changed, whoever changed it. One chain for the process, so
//! that a line that is gone shows; what that is worth is [`crds::audit`]'s to say.

use std::sync::Arc;

use crds::audit::{Act, Chain, Entry};
use jiff::Timestamp;
use parking_lot::Mutex;

/// Cloning shares it.
#[derive(Clone, Debug)]
pub struct Audit(Arc<Mutex<Chain>>);

impl Default for Audit {
    /// A new chain.
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Chain::new(rand::random()))))
    }
}

impl Audit {
    /// Writes an act down, with the time.
    pub fn write(&self, act: Act) {
        // Held over the writing: the lines stand in the order of their numbers.
        let mut chain = self.0.lock();
        let at = Timestamp::now().to_string();
        let (Entry { chain, sequence, previous, act }, hash) = chain.next(Act { at, ..act });
        let Act { at, namespace, name, revision, author, identity, trigger, action, object } = act;
        tracing::info!(
            chain, sequence, previous, hash, at, namespace, name, revision, author, identity, trigger, action, object,
            "audit"
        );
    }

    /// What the controller did to a Secret with its own rights, for an object beside it.
    pub fn own(&self, trigger: &str, action: &str, (namespace, name): (&str, &str), secret: &str) {
        self.write(Act {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            identity: "controller".to_owned(),
            trigger: trigger.to_owned(),
            action: action.to_owned(),
            object: format!("Secret {namespace}/{secret}"),
            ..Act::default()
        });
    }
}
