//! A forward proxy, as a company has one between its cluster and the world: it takes `CONNECT`, asks for credentials,
//! and knows one host, by a name that nobody else can resolve. It must not dial anything but loopback.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::{Result, bail};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
};

use crate::background::{Background, listen};

/// More than any CONNECT request holds.
const LONGEST_HEAD: usize = 8 * 1024;

/// The proxy; stops when dropped.
pub struct ForwardProxy {
    port: u16,
    passed: Arc<AtomicU64>,
    _serving: Background,
}

impl ForwardProxy {
    /// `host:443` leads to a loopback port, for whoever gives these credentials.
    pub fn start(host: &str, port: u16, (user, password): (&str, &str)) -> Result<Self> {
        let wanted = Wanted {
            request: format!("CONNECT {host}:443 "),
            login: format!("basic {}", BASE64_STANDARD.encode(format!("{user}:{password}"))),
            port,
        };
        let (listener, own) = listen()?;
        let passed = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&passed);
        let serving = Background::run("proxy", move || serve(listener, Arc::new(wanted), counter))?;
        Ok(Self { port: own, passed, _serving: serving })
    }

    pub fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Connections that it let through.
    pub fn passed(&self) -> u64 {
        self.passed.load(Ordering::Relaxed)
    }
}

struct Wanted {
    request: String,
    login: String,
    port: u16,
}

async fn serve(listener: std::net::TcpListener, wanted: Arc<Wanted>, passed: Arc<AtomicU64>) -> Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        let (wanted, passed) = (Arc::clone(&wanted), Arc::clone(&passed));
        // A broken connection is the client's to report.
        tokio::spawn(async move { relay(stream, &wanted, &passed).await });
    }
}

async fn relay(mut from: TcpStream, wanted: &Wanted, passed: &AtomicU64) -> Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() > LONGEST_HEAD || from.read_buf(&mut head).await? == 0 {
            bail!("no complete request");
        }
    }
    let head = String::from_utf8(head)?;
    let login = head.lines().filter_map(|line| line.split_once(": "));
    let mut login = login.filter(|(name, _)| name.eq_ignore_ascii_case("proxy-authorization"));
    let (kind, secret) = wanted.login.split_once(' ').unwrap_or_default();
    let is_known = login.any(|(_, value)| {
        value.split_once(' ').is_some_and(|(shown, it)| shown.eq_ignore_ascii_case(kind) && it == secret)
    });
    if !is_known {
        from.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n").await?;
        return Ok(());
    }
    if !head.starts_with(&wanted.request) {
        from.write_all(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n").await?;
        return Ok(());
    }
    let mut to = TcpStream::connect((Ipv4Addr::LOCALHOST, wanted.port)).await?;
    passed.fetch_add(1, Ordering::Relaxed);
    from.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?;
    copy_bidirectional(&mut from, &mut to).await?;
    Ok(())
}
