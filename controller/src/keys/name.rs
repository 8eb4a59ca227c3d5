//! The name of the next key. All replicas agree on it beforehand, so that of two that make a key at once one finds the
//! name taken; and no name is used twice, so that a key that comes back from a backup never meets another of its name.

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use rand::RngExt as _;

/// The Lease that holds the name.
const NAME: &str = "signet-next-key";

/// What the replicas agree by.
pub struct Names(Api<Lease>);

/// A name, and where it was agreed on; nowhere without rights to the Lease.
pub struct Agreed {
    /// For the next key's Secret.
    pub name: String,
    lease: Option<Lease>,
}

impl Names {
    pub fn new(client: Client, namespace: &str) -> Self {
        Self(Api::namespaced(client, namespace))
    }

    /// The name that everyone uses next.
    pub async fn next(&self, prefix: &str) -> kube::Result<Agreed> {
        match self.agreed(prefix).await {
            Err(kube::Error::Api(status)) if status.is_forbidden() => {
                let why = status.message;
                tracing::warn!(why, "cannot agree with other replicas on a new key: see deploy/install.yaml");
                Ok(Agreed { name: random(prefix), lease: None })
            }
            agreed => agreed,
        }
    }

    async fn agreed(&self, prefix: &str) -> kube::Result<Agreed> {
        loop {
            let lease = match self.0.get_opt(NAME).await? {
                Some(lease) => lease,
                None => match self.0.create(&PostParams::default(), &holding(ObjectMeta::default(), prefix)).await {
                    Err(kube::Error::Api(status)) if status.is_already_exists() => continue,
                    made => made?,
                },
            };
            let name = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_ref());
            // Another prefix was chosen since.
            match name.filter(|name| name.starts_with(prefix)) {
                Some(name) => return Ok(Agreed { name: name.clone(), lease: Some(lease) }),
                None => self.replace(lease, prefix).await?,
            }
        }
    }

    /// The name is taken: the next key gets another one.
    pub async fn used(&self, agreed: Agreed, prefix: &str) -> kube::Result<()> {
        let Some(lease) = agreed.lease else { return Ok(()) };
        self.replace(lease, prefix).await
    }

    async fn replace(&self, lease: Lease, prefix: &str) -> kube::Result<()> {
        match self.0.replace(NAME, &PostParams::default(), &holding(lease.metadata, prefix)).await {
            // Another replica was faster.
            Err(kube::Error::Api(status)) if status.is_conflict() => Ok(()),
            written => written.map(drop),
        }
    }
}

fn holding(metadata: ObjectMeta, prefix: &str) -> Lease {
    Lease {
        metadata: ObjectMeta { name: Some(NAME.to_owned()), ..metadata },
        spec: Some(LeaseSpec { holder_identity: Some(random(prefix)), ..LeaseSpec::default() }),
    }
}

/// As Kubernetes makes names: five letters, no vowels, no words.
fn random(prefix: &str) -> String {
    const LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    let random: [u8; 5] = rand::rng().random();
    let letters = random.iter().filter_map(|byte| LETTERS.get(usize::from(*byte) % LETTERS.len()));
    prefix.chars().chain(letters.map(|letter| char::from(*letter))).collect()
}
