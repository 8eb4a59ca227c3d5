//! Who waits for whom.

use std::time::Duration;

use super::{World, fetch, of};
use crate::sync::source::{PACKS, Source, SourceError};

#[tokio::test]
async fn who_has_nothing_new_does_not_wait_for_those_that_unpack() {
    let world = World::new();
    world.commit("a.yaml", "1");
    let (mirrors, source) = (world.mirrors(), world.source("main"));
    let mut all = Vec::new();
    for number in 0..PACKS {
        all.push(mirrors.packs.one(&format!("ns-{number}")).await);
    }
    let mut first = Box::pin(fetch(&mirrors, &source));
    assert!(tokio::time::timeout(Duration::from_secs(1), &mut first).await.is_err());
    all.pop();
    let known = first.await.unwrap();
    all.push(mirrors.packs.one("ns").await);
    assert_eq!(fetch(&mirrors, &source).await.unwrap(), known);
}

/// It says nothing of the host.
#[tokio::test]
async fn a_fetch_that_is_given_up_is_no_answer_for_those_that_wait_behind_it() {
    let world = World::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/app", listener.local_addr().unwrap());
    let source = || of(&url, "main").unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    let (arrived, first) = tokio::sync::oneshot::channel();
    // Holds on to who comes first, and sends away all others.
    std::thread::spawn(move || {
        let held = listener.accept();
        let _ = (arrived.send(()), told.recv());
        drop(held);
        while listener.accept().is_ok() {}
    });
    let mirrors = std::sync::Arc::new(world.mirrors());
    let ask = |source: Source| {
        let mirrors = mirrors.clone();
        tokio::spawn(async move { fetch(&mirrors, &source).await })
    };
    let given_up = ask(source());
    first.await.unwrap();
    let waiting = ask(source());
    // As far as the turn at the mirror.
    tokio::task::yield_now().await;
    given_up.abort();
    assert!(given_up.await.unwrap_err().is_cancelled());
    tell.send(()).unwrap();
    let error = waiting.await.unwrap().unwrap_err();
    assert!(!matches!(error, SourceError::Timeout { .. }), "{error}");
}
