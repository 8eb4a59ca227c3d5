//! A server on a thread and runtime of its own, because every `#[tokio::test]` takes what runs on its runtime down
//! with it. It must not know what it serves.

use std::{
    future::Future,
    net::{Ipv4Addr, TcpListener},
    ops::Range,
    sync::{
        LazyLock,
        atomic::{AtomicU16, Ordering},
    },
    thread,
};

use anyhow::{Context as _, Result};
use tokio::{runtime, sync::oneshot};

/// Ends where Linux' `ip_local_port_range` begins. Their number divides 2^16, so that counting goes round.
const PORTS: Range<u16> = 16_384..32_768;

/// Runs until dropped.
pub struct Background {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Background {
    /// Runs what `serve` makes until it ends or the handle is dropped. `serve` is called inside the new runtime, where
    /// sockets that the caller has bound already can be registered: so there is nothing to wait for.
    pub fn run<S, Fut>(name: &str, serve: S) -> Result<Self>
    where
        S: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<()>>,
    {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        _ = stopped => {}
                        _ = serve() => {}
                    }
                });
                // Not waiting for a child that a connection still holds keeps Drop quick.
                runtime.shutdown_background();
            })
            .with_context(|| format!("failed to start the thread {name}"))?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A listener on a loopback port, ready to be handed to a runtime, and that port: never the same twice, as somebody may
/// go on asking for who had it before.
pub fn listen() -> Result<(TcpListener, u16)> {
    static NEXT: LazyLock<AtomicU16> = LazyLock::new(|| AtomicU16::new(rand::random()));
    let (listener, port) = PORTS
        .map(|_| PORTS.start + NEXT.fetch_add(1, Ordering::Relaxed) % (PORTS.end - PORTS.start))
        .find_map(|port| Some((TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok()?, port)))
        .context("no loopback port is free")?;
    listener.set_nonblocking(true)?;
    Ok((listener, port))
}

/// Such a port that nobody has, for a program that must be told its port: outside the range from which the kernel takes
/// those of outgoing connections, of which one would have it before the program does.
pub fn free_port() -> Result<u16> {
    listen().map(|(_, port)| port)
}
