//! In which order kinds are applied; pruning goes the other way. Pure.

use super::object::ObjectId;

/// Stages, first to last. Within one, objects are applied together: nothing in it needs another of it.
pub const STAGES: u8 = 5;

/// The stage of an object: what others live in, then what they run as, then what they read, then they, and last what
/// could refuse them.
pub fn stage(id: &ObjectId) -> u8 {
    match (id.group.as_str(), id.kind.as_str()) {
        ("apiextensions.k8s.io", "CustomResourceDefinition") | ("", "Namespace") => 0,
        ("rbac.authorization.k8s.io", "ClusterRole" | "Role")
        | ("", "ServiceAccount" | "ResourceQuota" | "LimitRange" | "PersistentVolume") => 1,
        (_, kind) if kind.ends_with("Class") => 1,
        ("rbac.authorization.k8s.io", _)
        | ("", "ConfigMap" | "Secret" | "Service" | "PersistentVolumeClaim")
        | ("bitnami.com", "SealedSecret")
        | ("networking.k8s.io", "NetworkPolicy") => 2,
        ("admissionregistration.k8s.io" | "apiregistration.k8s.io", _) => 4,
        _ => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_need_comes_first() {
        let order = [
            ("", "Namespace"),
            ("rbac.authorization.k8s.io", "ClusterRole"),
            ("bitnami.com", "SealedSecret"),
            ("apps", "Deployment"),
            ("admissionregistration.k8s.io", "ValidatingWebhookConfiguration"),
        ];
        for (expected, (group, kind)) in (0..STAGES).zip(order) {
            let id = ObjectId { namespace: String::new(), name: "x".into(), group: group.into(), kind: kind.into() };
            assert_eq!(stage(&id), expected, "{kind}");
        }
    }
}
