//! The door of an API server: a program that is given this address has each of its requests pass here, where a test may
//! hold one, before it is carried out or before its answer is known. So a program can be ended at a step of its work
//! without a word about that in the program. It must not change what passes.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result};
use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    extract::{Request, State},
    http::{Response, StatusCode, header, request::Parts},
    response::IntoResponse as _,
    serve::Listener,
};
use futures::{
    FutureExt as _, StreamExt as _,
    future::BoxFuture,
    stream::{self, FuturesUnordered},
};
use kube::core::Status;
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::{
    Cluster,
    background::{Background, listen},
};

/// How long a request may keep a test waiting.
const CAUGHT: Duration = Duration::from_mins(3);

/// The door; closed when dropped.
pub struct Gate {
    port: u16,
    door: Arc<Door>,
    _serving: Background,
}

/// A request.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: String,
    /// Without the query.
    pub path: String,
    pub query: String,
    pub body: String,
}

/// Where a request is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// The API server has not heard of it.
    Request,
    /// The API server has done it, and who asked does not know.
    Answer,
}

/// Nothing passes while it lives.
pub struct Shut(Arc<Door>);

/// A request that is, or will be, held. Dropped, it gets no answer: the connection ends.
pub struct Held {
    caught: watch::Receiver<bool>,
    verdict: watch::Sender<Option<Verdict>>,
}

#[derive(Clone)]
enum Verdict {
    Pass,
    /// Something in front of the API server says no.
    Refuse(Box<Status>),
}

struct Door {
    server: String,
    client: reqwest::Client,
    shut: watch::Sender<bool>,
    rule: Mutex<Option<Rule>>,
    passed: Mutex<Vec<Asked>>,
}

struct Rule {
    at: At,
    wanted: Box<dyn Fn(&Asked) -> bool + Send>,
    caught: watch::Sender<bool>,
    verdict: watch::Receiver<Option<Verdict>>,
}

impl Gate {
    /// Before the API server of a cluster.
    pub fn start(cluster: &Cluster) -> Result<Self> {
        crate::install_crypto();
        let file =
            |name: &str| std::fs::read(cluster.scratch().path().join(name)).context("the cluster's certificates");
        let authority = reqwest::Certificate::from_pem(&file("ca.crt")?)?;
        let client = reqwest::Client::builder().no_proxy().tls_certs_only([authority]).build()?;
        let config = ServerConfig::builder().with_no_client_auth().with_single_cert(
            vec![CertificateDer::from_pem_slice(&file("serving.crt")?)?],
            PrivateKeyDer::from_pem_slice(&file("serving.key")?)?,
        )?;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let server = cluster.server().to_owned();
        let shut = watch::Sender::default();
        let door = Arc::new(Door { server, client, shut, rule: Mutex::default(), passed: Mutex::default() });
        let app = Router::new().fallback(answer).with_state(Arc::clone(&door));
        let (listener, port) = listen()?;
        let serving = Background::run("gate", move || async move {
            let listener = TcpListener::from_std(listener)?;
            let listener = Entrance { listener, acceptor, greeting: FuturesUnordered::new() };
            Ok(axum::serve(listener, app).await?)
        })?;
        Ok(Self { port, door, _serving: serving })
    }

    /// To be used in place of [`Cluster::server`].
    pub fn address(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// Holds the first request that is wanted.
    pub fn hold(&self, at: At, wanted: impl Fn(&Asked) -> bool + Send + 'static) -> Held {
        let (caught, is_caught) = watch::channel(false);
        let (verdict, told) = watch::channel(None);
        *lock(&self.door.rule) = Some(Rule { at, wanted: Box::new(wanted), caught, verdict: told });
        Held { caught: is_caught, verdict }
    }

    /// Ends every answer that is under way, such as a watch, and has every request wait.
    pub fn shut(&self) -> Shut {
        self.door.shut.send_replace(true);
        Shut(Arc::clone(&self.door))
    }

    /// What the API server was asked so far.
    pub fn passed(&self) -> Vec<Asked> {
        lock(&self.door.passed).clone()
    }
}

impl Held {
    /// Waits until there is one.
    pub async fn caught(&mut self) -> Result<()> {
        let caught = tokio::time::timeout(CAUGHT, self.caught.wait_for(|caught| *caught)).await;
        caught.context("nobody asked for what was to be held")?.context("the gate was closed")?;
        Ok(())
    }

    /// Lets it go on.
    pub fn pass(self) {
        self.verdict.send_replace(Some(Verdict::Pass));
    }

    /// Answers this in the API server's place, as an admission webhook may have it answer.
    pub fn refuse(self, status: Status) {
        self.verdict.send_replace(Some(Verdict::Refuse(Box::new(status))));
    }
}

impl Drop for Shut {
    fn drop(&mut self) {
        self.0.shut.send_replace(false);
    }
}

impl Rule {
    /// What it is answered, if it may not go on.
    async fn hold(&mut self) -> Option<Response<Body>> {
        self.caught.send_replace(true);
        match self.verdict.wait_for(Option::is_some).await.ok().and_then(|verdict| verdict.clone()) {
            Some(Verdict::Pass) => None,
            Some(Verdict::Refuse(status)) => {
                let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                let json = [(header::CONTENT_TYPE, "application/json")];
                Some((code, json, serde_json::to_vec(&status).unwrap_or_default()).into_response())
            }
            None => Some(cut_off()),
        }
    }
}

impl Door {
    /// The rule that is about this request, which then is used up.
    fn rule(&self, asked: &Asked) -> Option<Rule> {
        let mut rule = lock(&self.rule);
        let is_meant = |rule: &mut Rule| rule.verdict.has_changed().is_ok() && (rule.wanted)(asked);
        rule.take_if(is_meant)
    }

    async fn ask(&self, head: Parts, body: Bytes) -> Result<Response<Body>> {
        let mut headers = head.headers;
        headers.remove(header::HOST);
        let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
        let request = self.client.request(head.method, format!("{}{path}", self.server)).headers(headers).body(body);
        let response: Response<reqwest::Body> = request.send().await?.into();
        let mut shut = self.shut.subscribe();
        let ended = async move { drop(shut.wait_for(|shut| *shut).await) };
        Ok(response.map(|body| Body::from_stream(Body::new(body).into_data_stream().take_until(ended))))
    }
}

async fn answer(State(door): State<Arc<Door>>, request: Request) -> Response<Body> {
    let (head, body) = request.into_parts();
    let Ok(body) = to_bytes(body, usize::MAX).await else { return cut_off() };
    let (method, path) = (head.method.to_string(), head.uri.path().to_owned());
    let query = head.uri.query().unwrap_or_default().to_owned();
    let asked = Asked { method, path, query, body: String::from_utf8_lossy(&body).into_owned() };
    // The sender lives as long as the door.
    drop(door.shut.subscribe().wait_for(|shut| !shut).await);
    let mut rule = door.rule(&asked);
    if let Some(rule) = rule.as_mut().filter(|rule| rule.at == At::Request)
        && let Some(answer) = rule.hold().await
    {
        return answer;
    }
    lock(&door.passed).push(asked);
    // What has begun is carried out, though whoever asked is killed meanwhile.
    let asking = Arc::clone(&door);
    let answer = tokio::spawn(async move { asking.ask(head, body).await }).await;
    if let Some(rule) = rule.as_mut().filter(|rule| rule.at == At::Answer)
        && let Some(answer) = rule.hold().await
    {
        return answer;
    }
    answer.ok().and_then(Result::ok).unwrap_or_else(cut_off)
}

/// The connection breaks in the middle of an answer.
fn cut_off() -> Response<Body> {
    Response::new(Body::from_stream(stream::iter([Err::<Bytes, _>(io::Error::other("cut off"))])))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

type Connection = (TlsStream<TcpStream>, SocketAddr);

/// Where connections come in.
struct Entrance {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    /// Nobody waits for one that does not say anything.
    greeting: FuturesUnordered<BoxFuture<'static, io::Result<Connection>>>,
}

impl Listener for Entrance {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            tokio::select! {
                (stream, address) = Listener::accept(&mut self.listener) => {
                    let greeted = self.acceptor.accept(stream);
                    self.greeting.push(async move { Ok((greeted.await?, address)) }.boxed());
                }
                // A broken connection is the client's to report.
                Some(greeted) = self.greeting.next() => if let Ok(greeted) = greeted { return greeted },
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio_rustls::TlsConnector;

    use super::*;
    use crate::certificates::HostCertificates;

    #[tokio::test]
    async fn who_breaks_off_keeps_nobody_waiting() -> Result<()> {
        crate::install_crypto();
        let certificates = HostCertificates::mint(&["localhost"])?;
        let config = ServerConfig::builder().with_no_client_auth().with_single_cert(
            vec![CertificateDer::from_pem_slice(certificates.serving.certificate.as_bytes())?],
            PrivateKeyDer::from_pem_slice(certificates.serving.key.as_bytes())?,
        )?;
        let mut known = RootCertStore::empty();
        known.add(CertificateDer::from_pem_slice(certificates.authority.as_bytes())?)?;
        let client = ClientConfig::builder().with_root_certificates(known).with_no_client_auth();
        let (listener, port) = listen()?;
        let mut entrance = Entrance {
            listener: TcpListener::from_std(listener)?,
            acceptor: TlsAcceptor::from(Arc::new(config)),
            greeting: FuturesUnordered::new(),
        };
        let clients = async {
            let slow = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
            let mut broken = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
            broken.write_all(b"this is no TLS\r\n\r\n").await?;
            // It may be told why, or be cut off.
            let _ = broken.read_to_end(&mut Vec::new()).await;
            let tls = TlsConnector::from(Arc::new(client)).connect(ServerName::try_from("localhost")?, slow).await?;
            anyhow::Ok(tls)
        };
        let both = async { tokio::join!(entrance.accept(), clients) };
        let (_, met) = tokio::time::timeout(CAUGHT, both).await.context("nobody is let in")?;
        met.map(drop)
    }
}
