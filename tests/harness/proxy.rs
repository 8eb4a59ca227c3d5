//! Stands in for the pod network: the API server dials pods through a Unix socket (its egress selector), and here a
//! pod's address becomes a port on loopback. So `services/http:NAME:PORT/proxy` reaches a process beside the test,
//! without root and without a network namespace. It must not dial anything but loopback.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddrV4},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context as _, Result, bail};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpStream, UnixListener, UnixStream},
};

use crate::background::Background;

/// More than any CONNECT request holds.
const LONGEST_HEAD: usize = 8 * 1024;

type Routes = Arc<Mutex<HashMap<SocketAddrV4, u16>>>;

/// The relay; stops when dropped.
pub struct Proxy {
    routes: Routes,
    _serving: Background,
}

impl Proxy {
    /// Listens on the Unix socket `path`.
    pub fn start(path: &Path) -> Result<Self> {
        let listener = std::os::unix::net::UnixListener::bind(path)
            .with_context(|| format!("failed to listen on {}", path.display()))?;
        listener.set_nonblocking(true)?;
        let routes = Routes::default();
        let known = Arc::clone(&routes);
        let serving = Background::run("egress", move || serve(listener, known))?;
        Ok(Self { routes, _serving: serving })
    }

    /// From now on, `ip:port` means `127.0.0.1:loopback_port`.
    pub fn route(&self, ip: Ipv4Addr, port: u16, loopback_port: u16) {
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        routes.insert(SocketAddrV4::new(ip, port), loopback_port);
    }
}

async fn serve(listener: std::os::unix::net::UnixListener, routes: Routes) -> Result<()> {
    let listener = UnixListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        let routes = Arc::clone(&routes);
        // A broken connection is the API server's to report.
        tokio::spawn(async move { relay(stream, &routes).await });
    }
}

async fn relay(mut from: UnixStream, routes: &Routes) -> Result<()> {
    let wanted = read_connect(&mut from).await?;
    let port = routes.lock().unwrap_or_else(PoisonError::into_inner).get(&wanted).copied();
    let dialled = match port {
        Some(port) => TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.ok(),
        None => None,
    };
    let Some(mut to) = dialled else {
        from.write_all(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n").await?;
        return Ok(());
    };
    from.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?;
    copy_bidirectional(&mut from, &mut to).await?;
    Ok(())
}

/// Reads `CONNECT <ip>:<port> HTTP/1.1` and its headers. The client sends nothing more before it is answered.
async fn read_connect(stream: &mut UnixStream) -> Result<SocketAddrV4> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() > LONGEST_HEAD || stream.read_buf(&mut head).await? == 0 {
            bail!("no complete request");
        }
    }
    let head = String::from_utf8(head)?;
    let mut words = head.split_whitespace();
    match (words.next(), words.next()) {
        (Some("CONNECT"), Some(address)) => Ok(address.parse()?),
        _ => bail!("not a CONNECT request"),
    }
}
