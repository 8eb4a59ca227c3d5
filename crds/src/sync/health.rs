//! Whether an object does what it was applied for, read off its status by the rules that kstatus has, which Flux and
//! kubectl wait go by. Pure.

use serde_json::Value;

use super::{object::ObjectId, render::Desired};

/// How an object fares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// It does what it is for.
    Healthy,
    /// It may soon; why not yet.
    Progressing(String),
    /// It does not, and will not by itself.
    Degraded(String),
}

/// Groups of the API server's own kinds. Of others nobody knows what their objects do but they themselves.
const BUILT_IN: [&str; 20] = [
    "",
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "apiregistration.k8s.io",
    "apps",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "autoscaling",
    "batch",
    "certificates.k8s.io",
    "coordination.k8s.io",
    "discovery.k8s.io",
    "events.k8s.io",
    "flowcontrol.apiserver.k8s.io",
    "networking.k8s.io",
    "node.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "scheduling.k8s.io",
    "storage.k8s.io",
];

/// Whether an object is anything but healthy at times: of others the status need not be read.
pub fn is_judged(desired: &Desired) -> bool {
    // How SealedSecrets fare is known without asking.
    if desired.marks.any_health || desired.id.is_sealed() {
        return false;
    }
    match (desired.id.group.as_str(), desired.id.kind.as_str()) {
        ("", "Service") => desired.body.value()["spec"]["type"] == "LoadBalancer",
        _ => has_health(&desired.id),
    }
}

/// Whether objects of a kind can be anything but healthy.
pub fn has_health(id: &ObjectId) -> bool {
    match (id.group.as_str(), id.kind.as_str()) {
        ("apps", "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet")
        | ("batch", "Job")
        | ("", "Pod" | "PersistentVolumeClaim" | "ReplicationController" | "Service") => true,
        (group, _) => !BUILT_IN.contains(&group),
    }
}

/// Whether what is run has ended: a Pod that runs has not, however well it does.
pub fn ended(group: &str, object: &Value) -> Health {
    let is_pod = group.is_empty() && object["kind"] == "Pod";
    match health(group, object) {
        Health::Healthy if is_pod && object["status"]["phase"] != "Succeeded" => progressing("has not completed"),
        other => other,
    }
}

/// Why its status says nothing about it as it stands in Git.
pub fn outdated(object: &Value) -> Option<Health> {
    let (metadata, status) = (&object["metadata"], &object["status"]);
    if metadata["deletionTimestamp"].is_string() {
        return Some(progressing("is being deleted"));
    }
    let observed = status["observedGeneration"].as_i64();
    let is_behind = observed.is_some_and(|observed| Some(observed) != metadata["generation"].as_i64());
    is_behind.then(|| progressing("its newest form has not been seen by its controller"))
}

/// Reads it.
pub fn health(group: &str, object: &Value) -> Health {
    if let Some(outdated) = outdated(object) {
        return outdated;
    }
    let status = &object["status"];
    if let Some(why) = condition(object, "Reconciling", "True") {
        return Health::Progressing(why);
    }
    if let Some(why) = condition(object, "Stalled", "True") {
        return Health::Degraded(why);
    }
    match (group, object["kind"].as_str().unwrap_or_default()) {
        ("apps", "Deployment") => deployment(object),
        ("apps", "StatefulSet") => stateful_set(object),
        ("apps", "DaemonSet") => daemon_set(object),
        ("apps", "ReplicaSet") | ("", "ReplicationController") => replicas(object, &["replicas", "readyReplicas"]),
        ("batch", "Job") => job(object),
        ("", "Pod") => pod(object),
        ("", "PersistentVolumeClaim") => match status["phase"].as_str() {
            Some("Bound") => Health::Healthy,
            phase => Health::Progressing(format!("is {}", phase.unwrap_or("not bound"))),
        },
        ("", "Service") if object["spec"]["type"] == "LoadBalancer" => {
            let address = status["loadBalancer"]["ingress"].as_array().is_some_and(|all| !all.is_empty());
            if address { Health::Healthy } else { progressing("has no address yet") }
        }
        ("bitnami.com", "SealedSecret") => match condition(object, "Synced", "False") {
            Some(why) => Health::Degraded(why),
            None if condition(object, "Synced", "True").is_some() => Health::Healthy,
            None => progressing("is not opened yet"),
        },
        _ => match ["False", "Unknown"].iter().find_map(|status| condition(object, "Ready", status)) {
            Some(why) => Health::Progressing(why),
            None => Health::Healthy,
        },
    }
}

fn deployment(object: &Value) -> Health {
    let failed =
        conditions(object).find(|it| it["type"] == "Progressing" && it["reason"] == "ProgressDeadlineExceeded");
    if let Some(failed) = failed {
        return Health::Degraded(words(failed));
    }
    let (wanted, status) = (number(&object["spec"]["replicas"], 1), &object["status"]);
    let all = ["replicas", "updatedReplicas", "availableReplicas", "readyReplicas"];
    match replicas(object, &all) {
        Health::Healthy if status["observedGeneration"].is_null() => progressing("has not been seen by its controller"),
        Health::Healthy if number(&status["replicas"], 0) > wanted => progressing("old pods are still to go"),
        Health::Healthy => match condition(object, "Available", "False") {
            Some(why) => Health::Progressing(why),
            None => Health::Healthy,
        },
        other => other,
    }
}

fn stateful_set(object: &Value) -> Health {
    let (spec, status) = (&object["spec"], &object["status"]);
    if spec["updateStrategy"]["type"] == "OnDelete" {
        return Health::Healthy;
    }
    let partition = number(&spec["updateStrategy"]["rollingUpdate"]["partition"], 0);
    match replicas(object, &["replicas", "readyReplicas"]) {
        Health::Healthy => {}
        other => return other,
    }
    let wanted = number(&spec["replicas"], 1);
    let updated = number(&status["updatedReplicas"], 0);
    if updated < wanted - partition {
        return Health::Progressing(format!("{updated} of {} pods are updated", wanted - partition));
    }
    if partition == 0 && status["currentRevision"] != status["updateRevision"] {
        return progressing("is changing to another revision");
    }
    Health::Healthy
}

fn daemon_set(object: &Value) -> Health {
    let status = &object["status"];
    if status["observedGeneration"].is_null() {
        return progressing("has not been seen by its controller");
    }
    let wanted = number(&status["desiredNumberScheduled"], 0);
    for field in ["currentNumberScheduled", "updatedNumberScheduled", "numberAvailable", "numberReady"] {
        let there = number(&status[field], 0);
        if there < wanted {
            return Health::Progressing(format!("{field} is {there} of {wanted}"));
        }
    }
    Health::Healthy
}

/// Whether each count has reached what is asked for.
fn replicas(object: &Value, counts: &[&str]) -> Health {
    let wanted = number(&object["spec"]["replicas"], 1);
    for field in counts {
        let there = number(&object["status"][field], 0);
        if there < wanted {
            return Health::Progressing(format!("{field} is {there} of {wanted}"));
        }
    }
    Health::Healthy
}

fn job(object: &Value) -> Health {
    if let Some(why) = condition(object, "Failed", "True") {
        return Health::Degraded(why);
    }
    let ended = ["Complete", "Suspended"].iter().any(|kind| condition(object, kind, "True").is_some());
    if ended { Health::Healthy } else { progressing("has not completed") }
}

fn pod(object: &Value) -> Health {
    let status = &object["status"];
    let phase = status["phase"].as_str().unwrap_or("Pending");
    let waits = status["containerStatuses"].as_array().into_iter().flatten().map(|it| &it["state"]["waiting"]);
    let crashed = waits.filter(|waiting| waiting["reason"] == "CrashLoopBackOff").map(words).next();
    match (phase, crashed) {
        (_, Some(why)) => Health::Degraded(why),
        ("Succeeded", _) => Health::Healthy,
        ("Failed", _) => Health::Degraded("has failed".to_owned()),
        ("Running", _) if condition(object, "Ready", "True").is_some() => Health::Healthy,
        (phase, _) => Health::Progressing(format!("is {phase}, and not ready")),
    }
}

fn conditions(object: &Value) -> impl Iterator<Item = &Value> {
    object["status"]["conditions"].as_array().into_iter().flatten()
}

/// What a condition of this type says, where it has this status.
fn condition(object: &Value, kind: &str, status: &str) -> Option<String> {
    conditions(object).find(|it| it["type"] == kind && it["status"] == status).map(words)
}

fn words(said: &Value) -> String {
    let text = |field: &str| said[field].as_str().filter(|text| !text.is_empty());
    text("message").or_else(|| text("reason")).or_else(|| text("type")).unwrap_or_default().to_owned()
}

fn number(value: &Value, default: i64) -> i64 {
    value.as_i64().unwrap_or(default)
}

fn progressing(why: &str) -> Health {
    Health::Progressing(why.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn state(group: &str, kind: &str, spec: &Value, status: &Value) -> &'static str {
        let object = json!({"kind": kind, "metadata": {"generation": 2}, "spec": spec, "status": status});
        match health(group, &object) {
            Health::Healthy => "healthy",
            Health::Progressing(why) | Health::Degraded(why) if why.is_empty() => "silent",
            Health::Progressing(_) => "progressing",
            Health::Degraded(_) => "degraded",
        }
    }

    fn condition_of(kind: &str, status: &str) -> Value {
        json!({"conditions": [{"type": kind, "status": status, "reason": "Because", "message": "of this"}]})
    }

    #[test]
    fn deployments() {
        let full = |replicas: i64, ready: i64| {
            json!({"observedGeneration": 2, "replicas": replicas, "updatedReplicas": 3, "availableReplicas": ready,
                "readyReplicas": ready})
        };
        let mut exceeded = full(3, 2);
        exceeded["conditions"] =
            json!([{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}]);
        let mut unavailable = full(3, 3);
        unavailable["conditions"] = condition_of("Available", "False")["conditions"].clone();
        let mut old = full(3, 3);
        old["observedGeneration"] = json!(1);
        for (status, expected) in [
            (json!({}), "progressing"),
            (full(3, 3), "healthy"),
            (full(3, 2), "progressing"),
            (full(4, 3), "progressing"),
            (old, "progressing"),
            (exceeded, "degraded"),
            (unavailable, "progressing"),
        ] {
            assert_eq!(state("apps", "Deployment", &json!({"replicas": 3}), &status), expected, "{status}");
        }
        assert_eq!(state("apps", "Deployment", &json!({"replicas": 0}), &json!({"observedGeneration": 2})), "healthy");
    }

    #[test]
    fn stateful_and_daemon_sets() {
        let sets = |updated: i64, current: &str| {
            json!({"observedGeneration": 2, "replicas": 3, "readyReplicas": 3, "updatedReplicas": updated,
                "currentRevision": current, "updateRevision": "b"})
        };
        let partition = json!({"replicas": 3, "updateStrategy": {"rollingUpdate": {"partition": 2}}});
        let on_delete = json!({"replicas": 3, "updateStrategy": {"type": "OnDelete"}});
        let rolling = json!({"replicas": 3});
        for (spec, status, expected) in [
            (&rolling, sets(3, "b"), "healthy"),
            (&rolling, sets(3, "a"), "progressing"),
            (&rolling, sets(2, "b"), "progressing"),
            (&partition, sets(1, "a"), "healthy"),
            (&partition, sets(0, "a"), "progressing"),
            (&on_delete, json!({}), "healthy"),
            (&rolling, json!({}), "progressing"),
        ] {
            assert_eq!(state("apps", "StatefulSet", spec, &status), expected, "{spec} {status}");
        }
        let daemons = |ready: i64| {
            json!({"observedGeneration": 2, "desiredNumberScheduled": 2, "currentNumberScheduled": 2,
                "updatedNumberScheduled": 2, "numberAvailable": 2, "numberReady": ready})
        };
        assert_eq!(state("apps", "DaemonSet", &json!({}), &daemons(2)), "healthy");
        assert_eq!(state("apps", "DaemonSet", &json!({}), &daemons(1)), "progressing");
        assert_eq!(state("apps", "DaemonSet", &json!({}), &json!({})), "progressing");
    }

    #[test]
    fn jobs_pods_claims_services_and_kinds_of_others() {
        let crash =
            json!({"phase": "Running", "containerStatuses": [{"state": {"waiting": {"reason": "CrashLoopBackOff"}}}]});
        let mut ready = condition_of("Ready", "True");
        ready["phase"] = json!("Running");
        for (group, kind, status, expected) in [
            ("batch", "Job", json!({}), "progressing"),
            ("batch", "Job", condition_of("Complete", "True"), "healthy"),
            ("batch", "Job", condition_of("Suspended", "True"), "healthy"),
            ("batch", "Job", condition_of("Failed", "True"), "degraded"),
            ("", "Pod", json!({"phase": "Succeeded"}), "healthy"),
            ("", "Pod", json!({"phase": "Failed"}), "degraded"),
            ("", "Pod", json!({"phase": "Running"}), "progressing"),
            ("", "Pod", ready, "healthy"),
            ("", "Pod", crash, "degraded"),
            ("", "PersistentVolumeClaim", json!({"phase": "Bound"}), "healthy"),
            ("", "PersistentVolumeClaim", json!({"phase": "Pending"}), "progressing"),
            ("", "Service", json!({"loadBalancer": {}}), "progressing"),
            ("", "Service", json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}), "healthy"),
            ("example.com", "Widget", json!({}), "healthy"),
            ("example.com", "Widget", condition_of("Ready", "True"), "healthy"),
            ("example.com", "Widget", condition_of("Ready", "False"), "progressing"),
            ("example.com", "Widget", condition_of("Reconciling", "True"), "progressing"),
            ("example.com", "Widget", condition_of("Stalled", "True"), "degraded"),
            ("example.com", "Widget", json!({"observedGeneration": 1}), "progressing"),
            ("bitnami.com", "SealedSecret", condition_of("Synced", "True"), "healthy"),
            ("bitnami.com", "SealedSecret", condition_of("Synced", "False"), "degraded"),
            ("bitnami.com", "SealedSecret", json!({}), "progressing"),
        ] {
            assert_eq!(state(group, kind, &json!({"type": "LoadBalancer"}), &status), expected, "{kind} {status}");
        }
        assert_eq!(state("", "Service", &json!({"type": "ClusterIP"}), &json!({"loadBalancer": {}})), "healthy");
        let going = json!({"kind": "Pod", "metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
        assert_eq!(health("", &going), progressing("is being deleted"));
    }
}
