//! What the two sides of Signet must agree on: the resources, the sealed format and the keys.
//!
//! ```text
//!             seal.rs ──────────────┐                ┌────────────── unseal.rs
//!   Secret + Certificate + Scope    ▼                ▼    SealedSecret + KeyRing
//!                               envelope.rs   key.rs · key_ring.rs
//!                              (bytes ↔ bytes)  (who can open)
//! ```
//!
//! - [`sealed_secret`] and [`git_sync`]: the two resources; [`yaml`], [`base64`] and [`go`]: text.
//! - [`scope`]: the one place that builds an OAEP label; [`envelope`]: the one place that encrypts.
//! - [`key`], [`key_ring`]: private keys, certificates and their order; [`key_secret`]: how a cluster keeps them.
//! - [`key_life`]: what becomes of a key, and when a new one is due; [`key_needs`]: what still needs it.
//! - [`recipients`]: one `SealedSecret` for several clusters.
//! - [`seal`], [`unseal`] and [`reseal`]: from a Secret to a `SealedSecret`, back, and on to another key; [`explain`]: why it does not open.
//! - [`template`]: what is rendered on the way to a Secret.
//! - [`sync`]: from the files of a repository to the objects that a `GitSync` applies.
//! - [`audit`]: what the controller changed, in a chain that either side can check.
//! - [`guard`]: what both programs do so that secrets stay in their memory.
//!
//! Nothing here does I/O or knows a clock: time and randomness are arguments, so the command line, the controller and
//! an offline recovery run the very same code.
#![warn(missing_docs)]

pub mod audit;
pub mod base64;
pub mod envelope;
pub mod explain;
pub mod git_sync;
pub mod go;
pub mod guard;
pub mod key;
pub mod key_life;
pub mod key_needs;
pub mod key_ring;
pub mod key_secret;
pub mod recipients;
pub mod reseal;
pub mod scope;
pub mod seal;
pub mod sealed_secret;
pub mod sync;
pub mod template;
pub mod unseal;
pub mod yaml;

pub use envelope::Plaintext;
pub use git_sync::GitSync;
pub use key::{Certificate, Fingerprint, PrivateKey};
pub use key_ring::KeyRing;
pub use scope::Scope;
pub use sealed_secret::SealedSecret;

use kube::CustomResourceExt as _;

/// The custom resource definitions, as `crds/crds.yaml` holds them.
pub fn definitions() -> [k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition; 2]
{
    [SealedSecret::crd(), GitSync::crd()]
}
