//! The name of what a `GitSync` would make of the cluster: a plan is allowed by it, and hooks run once for each. Pure.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest as _, Sha256};

use super::{object::ObjectId, render::Desired};

/// Names what would be there and what would go. The same while the plan is carried out wave by wave.
pub fn digest(desired: &[Desired], leaving: &[(ObjectId, String)]) -> String {
    let mut hasher = Sha256::new();
    for object in desired {
        hasher.update(format!("+{}={}\n", object.id.inventory_id(), object.digest));
    }
    for (id, _) in leaving {
        hasher.update(format!("-{}\n", id.inventory_id()));
    }
    let digest = hasher.finalize();
    // It may become the value of a label one day: letters at both ends.
    let text: String = URL_SAFE_NO_PAD.encode(digest.as_slice()).chars().take(20).collect();
    format!("p{text}x")
}
