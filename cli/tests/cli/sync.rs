//! `seal sync` by an API server that answers as real ones cannot be made to: one GitSync of many goes, is withdrawn or
//! cannot be read, and the others are served all the same.

use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering},
};

use serde_json::{Value, json};

use crate::{
    reseal::Tree,
    stub::{Request, Stub},
};

/// One whose Ready is as said, and whose policy may be one that nobody knows yet.
fn sync(name: &str, policy: &str, ready: &str) -> Value {
    json!({
        "apiVersion": "signet.dev/v1alpha1", "kind": "GitSync",
        "metadata": {"namespace": "shop", "name": name, "generation": 1},
        "spec": {"source": {"url": "https://git.example.com/shop.git"}, "syncPolicy": policy},
        "status": {"conditions": [{"type": "Ready", "status": ready, "reason": "R", "message": "m",
            "observedGeneration": 1, "lastTransitionTime": "2026-01-01T00:00:00Z"}]},
    })
}

fn found(object: &Value) -> (u16, String) {
    (200, object.to_string())
}

fn refused(code: u16, words: &str) -> (u16, String) {
    (
        code,
        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": words, "code": code}).to_string(),
    )
}

fn list(syncs: &[Value]) -> (u16, String) {
    found(&json!({"apiVersion": "signet.dev/v1alpha1", "kind": "GitSyncList", "metadata": {}, "items": syncs}))
}

/// The GitSync that is asked for, or `gitsyncs` for all.
fn asked_for(request: &Request) -> &str {
    let path = request.path.split('?').next().unwrap();
    path.rsplit('/').next().unwrap()
}

fn seal(stub: &Stub, line: &str) -> (Option<i32>, String, String) {
    Tree::new().seal("sync", &format!("{line} --kubeconfig= --server {}", stub.address))
}

#[test]
fn one_that_goes_or_is_withdrawn_hides_no_other() {
    let all = ["aa", "bb", "cc"].map(|name| sync(name, "Automatic", "Unknown"));
    let stub = Stub::start(move |request| match asked_for(request) {
        "gitsyncs" => list(&all),
        "aa" => refused(404, "gitsyncs.signet.dev \"aa\" not found"),
        "bb" => found(&all[1]),
        _ => refused(403, "this is not for you"),
    });
    let (code, stdout, stderr) = seal(&stub, "wait -A --timeout 1s");
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stdout.contains("shop/aa is gone\n") && stdout.contains("shop/bb is under way"), "{stdout}");
    assert!(stderr.contains("not as wanted within 1 s: shop/bb\n"), "{stderr}");
    assert!(stderr.contains("cannot read the GitSync shop/cc: this is not for you\n"), "{stderr}");
    assert!(stderr.contains("deploy/sync-operator"), "{stderr}");
    // By name, too; and one that was never seen did not go.
    let (code, stdout, stderr) = seal(&stub, "wait shop/aa shop/bb --timeout 0");
    assert!(code == Some(1) && stdout.starts_with("shop/bb is under way"), "{stdout}");
    assert!(stderr.contains("within 0 s: shop/bb") && stderr.contains("there is no GitSync shop/aa"), "{stderr}");
    let (code, stdout, _) = seal(&stub, "wait shop/aa --for deleted");
    assert_eq!((code, stdout.as_str()), (Some(0), "shop/aa is gone\n"));
    // What only takes too long is late, and nothing else.
    let (code, _, stderr) = seal(&stub, "wait shop/bb --timeout 0");
    assert_eq!(code, Some(5), "{stderr}");
}

#[test]
fn an_api_server_in_trouble_is_waited_for() {
    let looks = AtomicUsize::new(0);
    let stub = Stub::start(move |request| match (asked_for(request), looks.fetch_add(1, Ordering::Relaxed)) {
        ("gitsyncs", _) => list(&["aa", "bb"].map(|name| sync(name, "Automatic", "Unknown"))),
        (_, 1) => refused(503, "busy"),
        (_, 2) => refused(429, "too many"),
        (name, _) => found(&sync(name, "Automatic", "True")),
    });
    let (code, stdout, stderr) = seal(&stub, "wait -A --timeout 1m");
    assert_eq!((code, stdout.matches(" is well").count(), stderr.as_str()), (Some(0), 2, ""), "{stdout}");
    // But not for ever, nor in silence.
    let stub = Stub::start(|request| match asked_for(request) {
        "gitsyncs" => list(&[sync("aa", "Automatic", "Unknown")]),
        _ => refused(500, "no disk"),
    });
    let (code, stdout, stderr) = seal(&stub, "wait -A --timeout 1s");
    assert!(code == Some(5) && stdout.starts_with("shop/aa is under way"), "{stdout}");
    assert!(stderr.contains("warning: cannot read the GitSync shop/aa: no disk"), "{stderr}");
    // Whoever asks for the first time is told at once.
    let (code, _, stderr) = seal(&stub, "wait shop/aa");
    assert!(code == Some(1) && stderr.contains("no disk"), "{stderr}");
}

/// `bb` is of a version to come, and `cc` goes before it can be changed.
fn mixed() -> Stub {
    let request = Mutex::new(Value::Null);
    Stub::start(move |asked| {
        let mut request = request.lock().unwrap();
        let one = |name: &str, request: &Value| {
            let mut sync = sync(name, if name == "bb" { "Weekly" } else { "Automatic" }, "True");
            sync["status"]["lastHandledReconcileAt"] = request.clone();
            sync
        };
        match (asked.method.as_str(), asked_for(asked)) {
            (_, "gitsyncs") => list(&["aa", "bb", "cc", "dd"].map(|name| one(name, &request))),
            (_, "cc") => refused(404, "gitsyncs.signet.dev \"cc\" not found"),
            ("PATCH", name) => {
                let patch: Value = serde_json::from_str(&asked.body).unwrap();
                let mut sync = one(name, &request);
                sync["spec"]["suspend"] = patch["spec"]["suspend"].as_bool().unwrap_or_default().into();
                *request = patch["metadata"]["annotations"]["reconcile.fluxcd.io/requestedAt"].clone();
                found(&sync)
            }
            (_, "signet-controller") => refused(404, "no Lease"),
            (_, name) => found(&one(name, &request)),
        }
    })
}

#[test]
fn one_that_cannot_be_read_or_changed_keeps_nothing_from_the_others() {
    let (code, stdout, stderr) = seal(&mixed(), "now -A --no-wait");
    let asked = ["aa", "bb", "dd"].map(|name| format!("shop/{name} is asked to look at Git\n")).concat();
    assert_eq!((code, stdout), (Some(1), asked), "{stderr}");
    assert!(stderr.starts_with("error: cannot change the GitSync shop/cc: "), "{stderr}");

    for (line, missing) in [
        ("now -A --timeout 1m", "cannot change the GitSync shop/cc"),
        ("now shop/bb shop/cc shop/dd shop/aa --timeout 1m", "there is no GitSync shop/cc"),
        ("wait shop/bb shop/cc shop/dd shop/aa --timeout 1m", "there is no GitSync shop/cc"),
    ] {
        let (code, stdout, stderr) = seal(&mixed(), line);
        assert!(code == Some(1) && stderr.contains(missing), "{line}: {stderr}");
        assert!(stdout.contains("shop/aa is well") && stdout.contains("shop/dd is well"), "{line}: {stdout}");
        assert!(stdout.contains("shop/bb is not well: Invalid\n") && stdout.contains("Weekly"), "{line}: {stdout}");
        assert!(!stderr.contains("shop/bb"), "{line}: {stderr}");
    }

    let (code, stdout, stderr) = seal(&mixed(), "suspend -A");
    assert!(code == Some(1) && !stderr.contains("shop/bb") && stderr.contains("shop/cc"), "{stderr}");
    assert!(stdout.contains("shop/bb is suspended; else it cannot be read: ") && stdout.contains("Weekly"), "{stdout}");
    assert_eq!(stdout.matches(" is suspended").count(), 3, "{stdout}");
    let (code, stdout, _) = seal(&mixed(), "resume shop/bb");
    assert_eq!((code, stdout.as_str()), (Some(0), "shop/bb goes on\n"));
}

#[test]
fn a_wait_that_nobody_lives_to_end_is_no_panic() {
    for limit in ["2562047788015215h30m", "18446744073709551615"] {
        let (code, stdout, stderr) =
            seal(&mixed(), &format!("wait shop/aa --timeout {limit} --request-timeout {limit}"));
        assert!(code == Some(0) && stdout.starts_with("shop/aa is well"), "{limit}: {stderr}");
    }
}

/// As with a wrong namespace or context.
#[test]
fn where_there_is_none_nobody_is_told_that_all_is_well() {
    let stub = Stub::start(|_| list(&[]));
    for line in ["wait --all -n shop", "now --all -n shop"] {
        let (code, stdout, stderr) = seal(&stub, line);
        assert_eq!((code, stdout.as_str()), (Some(1), ""), "{stderr}");
        assert!(stderr.starts_with("error: there is no GitSync in the namespace shop: nothing was waited"), "{stderr}");
    }
    for line in ["list", "suspend", "resume", "now --no-wait", "wait --for deleted"] {
        let (code, stdout, stderr) = seal(&stub, &format!("{line} -A"));
        assert_eq!((code, stdout.as_str()), (Some(0), ""), "{line}");
        assert_eq!(stderr, "warning: there is no GitSync in the cluster\n", "{line}");
    }
}
