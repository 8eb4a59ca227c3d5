//! Git over SSH without a program beside us: logs in with one key, runs `git-upload-pack`, and hands its two ends to
//! gix. The host must be one that known_hosts knows. It must not learn new hosts, nor wait beyond the patience it got.

mod known_hosts;

use std::{
    fmt,
    io::{self, Read, Write},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use gix::protocol::transport::{
    Protocol,
    client::git::{ConnectMode, blocking_io::Connection},
};
use parking_lot::Mutex;
use russh::{
    ChannelMsg, ChannelReadHalf, Preferred,
    client::{self, AuthResult},
    keys::{Algorithm, HashAlg, PrivateKey, PrivateKeyWithHashAlg, PublicKeyOrCertificate, decode_secret_key},
};
use tokio::{
    io::{AsyncWrite, AsyncWriteExt as _},
    runtime::Runtime,
};
use url::Url;

use self::known_hosts::KnownHost;

/// The user when the URL names none; every host that serves Git knows it.
const DEFAULT_USER: &str = "git";
/// The OID of an RSA key in PKCS#8.
const RSA: &str = "1.2.840.113549.1.1.1";
/// How soon an interrupt is noticed.
const TICK: Duration = Duration::from_millis(200);
/// How long the reason may come after the end.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// As much as is kept of what the host says beside the protocol: a sentence or two.
const MAX_WORDS: usize = 1024;

/// A private key and the hosts that may see it used.
#[derive(Clone)]
pub struct Login {
    key: Arc<PrivateKey>,
    known_hosts: Arc<str>,
}

/// Why a Secret's identity and known_hosts are no login.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// Nobody is there to type the passphrase.
    #[error("identity is protected by a passphrase, which nobody can type here: use a key without one")]
    Encrypted,
    /// This build has no RSA for SSH.
    #[error("identity is an RSA key, which is not supported: use an ed25519 or ecdsa key")]
    Rsa,
    /// Something else.
    #[error("identity is no private key in OpenSSH or PEM format")]
    Unreadable,
    /// No line of it is a host key.
    #[error("known_hosts holds no host key: it needs lines as ssh-keyscan prints them")]
    NoHost,
}

/// What ended a session, or kept it from beginning.
#[derive(Debug)]
pub enum SshError {
    /// The host cannot be reached, or does not speak SSH.
    Unreachable(String),
    /// The host is not the one that known_hosts knows.
    HostKey(String),
    /// The host is right, but does not let us in.
    Refused(String),
    /// It took too long, or nobody waits any more.
    Impatient,
}

impl Login {
    /// Reads the two entries of a Secret.
    pub fn new(identity: &str, known_hosts: &str) -> Result<Self, LoginError> {
        use russh::keys::Error as E;
        if identity.contains("ENCRYPTED") {
            return Err(LoginError::Encrypted);
        }
        let key = decode_secret_key(identity, None).map_err(|error| match error {
            E::KeyIsEncrypted => LoginError::Encrypted,
            E::UnsupportedKeyType { key_type_string, .. } if key_type_string == "RSA" => LoginError::Rsa,
            E::UnknownAlgorithm(id) if id.to_string() == RSA => LoginError::Rsa,
            _ => LoginError::Unreadable,
        })?;
        if matches!(key.algorithm(), Algorithm::Rsa { .. }) {
            return Err(LoginError::Rsa);
        }
        if known_hosts::entries(known_hosts).next().is_none() {
            return Err(LoginError::NoHost);
        }
        Ok(Self { key: Arc::new(key), known_hosts: known_hosts.into() })
    }

    /// What tells this login from others. Not secret.
    pub fn fingerprint(&self) -> String {
        format!("{}\n{}", self.key.fingerprint(HashAlg::Sha256), self.known_hosts)
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login(<redacted>)")
    }
}

/// How long to wait: until the deadline, and only while somebody wants the answer.
#[derive(Clone)]
pub struct Patience {
    pub deadline: Instant,
    pub interrupt: Arc<AtomicBool>,
}

impl Patience {
    async fn wait<T>(&self, work: impl Future<Output = T>) -> Result<T, SshError> {
        let mut work = pin!(work);
        loop {
            if self.interrupt.load(Ordering::Relaxed) || Instant::now() >= self.deadline {
                return Err(SshError::Impatient);
            }
            if let Ok(done) = tokio::time::timeout(TICK, work.as_mut()).await {
                return Ok(done);
            }
        }
    }
}

/// A session in which `git-upload-pack` runs, for gix to talk to.
pub type Transport = Connection<Reader, Writer>;

/// What the host said on stderr, for a person to read. Filled while the session goes on.
#[derive(Clone, Default)]
pub struct Words(Arc<Mutex<Vec<u8>>>);

impl Words {
    /// In one line; `None` if the host was silent.
    pub fn read(&self) -> Option<String> {
        let said = String::from_utf8_lossy(&self.0.lock()).into_owned();
        let words: Vec<&str> =
            said.split(|c: char| c.is_whitespace() || c.is_control()).filter(|w| !w.is_empty()).collect();
        (!words.is_empty()).then(|| words.join(" "))
    }

    fn hear(&self, data: &[u8]) {
        let mut heard = self.0.lock();
        let room = MAX_WORDS.saturating_sub(heard.len());
        heard.extend(data.iter().take(room));
    }
}

/// Logs in and starts `git-upload-pack` for the repository of the URL. Blocks.
pub fn connect(login: &Login, url: &Url, patience: Patience) -> Result<(Transport, Words), SshError> {
    let path = repository_path(url);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| SshError::Unreachable(error.to_string()))?;
    let (session, channel) = runtime.block_on(patience.wait(open(login, url, &path)))??;
    let (reading, writing) = channel.split();
    let writing = Box::pin(writing.make_writer());
    let link = Arc::new(Link { _session: session, runtime, patience });
    let words = Words::default();
    let reader = Reader { link: link.clone(), channel: reading, rest: Vec::new(), read: 0, words: words.clone() };
    let host = None::<(&str, Option<u16>)>;
    let connection =
        Connection::new(reader, Writer { link, writing }, Protocol::V2, path, host, ConnectMode::Process, false);
    Ok((connection.custom_url(Some(url.as_str().into())), words))
}

async fn open(
    login: &Login,
    url: &Url,
    path: &str,
) -> Result<(client::Handle<Client>, russh::Channel<client::Msg>), SshError> {
    let host = host(url);
    let port = url.port().unwrap_or(22);
    let known = KnownHost::find(&login.known_hosts, host, port);
    // The kinds of key that are known come first: else a host that has several shows another one.
    let mut key = known.algorithms();
    key.extend(Preferred::DEFAULT.key.iter().filter(|other| !known.algorithms().contains(other)).cloned());
    let preferred = Preferred { key: key.into(), ..Preferred::DEFAULT };
    let config = Arc::new(client::Config { preferred, nodelay: true, ..client::Config::default() });

    let mut session = client::connect(config, (host, port), Client { known }).await?;
    let user = if url.username().is_empty() { DEFAULT_USER } else { url.username() };
    let key = PrivateKeyWithHashAlg::new(login.key.clone(), None);
    if !matches!(session.authenticate_publickey(user, key).await.map_err(Problem::from)?, AuthResult::Success) {
        let public = login.key.public_key();
        let shown = public.to_openssh().unwrap_or_else(|_| public.fingerprint(HashAlg::Sha256).to_string());
        let refused =
            format!("the host does not let the user {user} in with the key in the Secret; add it there: {shown}");
        return Err(SshError::Refused(refused));
    }
    let channel = session.channel_open_session().await.map_err(Problem::from)?;
    // A host that drops the variable speaks an older protocol, which works too.
    channel.set_env(false, "GIT_PROTOCOL", "version=2").await.map_err(Problem::from)?;
    let command = format!("git-upload-pack {}", gix::quote::single(path.into()));
    channel.exec(true, command).await.map_err(Problem::from)?;
    Ok((session, channel))
}

/// The host as DNS and known_hosts know it: IPv6 without brackets.
fn host(url: &Url) -> &str {
    url.host_str().unwrap_or_default().trim_matches(['[', ']'])
}

/// As git does: escapes are undone, and `/~user/x` is `~user/x`.
fn repository_path(url: &Url) -> String {
    let path = gix::url::parse(url.as_str()).map_or_else(|_| url.path().to_owned(), |url| url.path.to_string());
    if path.starts_with("/~") { path[1..].to_owned() } else { path }
}

/// Keeps the session going while its two ends are in use.
struct Link {
    _session: client::Handle<Client>,
    runtime: Runtime,
    patience: Patience,
}

impl Link {
    fn wait<T>(&self, work: impl Future<Output = T>) -> io::Result<T> {
        let waited = self.runtime.block_on(self.patience.wait(work));
        waited.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the host did not answer in time"))
    }
}

/// What `git-upload-pack` writes.
pub struct Reader {
    link: Arc<Link>,
    channel: ChannelReadHalf,
    rest: Vec<u8>,
    read: usize,
    words: Words,
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.read == self.rest.len() {
            match self.link.wait(self.channel.wait())? {
                Some(ChannelMsg::Data { data }) => (self.rest, self.read) = (data.to_vec(), 0),
                Some(ChannelMsg::Eof | ChannelMsg::Close) | None => return self.drain(),
                Some(other) => self.note(other),
            }
        }
        let count = (&self.rest[self.read..]).read(buffer)?;
        self.read += count;
        Ok(count)
    }
}

impl Reader {
    /// Nothing more comes but, perhaps, the reason.
    fn drain(&mut self) -> io::Result<usize> {
        let next = |channel: &mut ChannelReadHalf| self.link.wait(tokio::time::timeout(LAST_WORDS, channel.wait()));
        while let Ok(Some(message)) = next(&mut self.channel)? {
            match message {
                ChannelMsg::Close => break,
                other => self.note(other),
            }
        }
        Ok(0)
    }

    fn note(&self, message: ChannelMsg) {
        match message {
            ChannelMsg::ExtendedData { data, .. } => self.words.hear(&data),
            ChannelMsg::Failure => self.words.hear(b"git-upload-pack may not be run"),
            ChannelMsg::ExitStatus { exit_status } if exit_status != 0 && self.words.read().is_none() => {
                self.words.hear(format!("git-upload-pack ended with status {exit_status}").as_bytes());
            }
            _ => {}
        }
    }
}

/// What `git-upload-pack` reads.
pub struct Writer {
    link: Arc<Link>,
    writing: Pin<Box<dyn AsyncWrite + Send + Sync>>,
}

impl Write for Writer {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.link.wait(self.writing.write(buffer))?
    }

    fn flush(&mut self) -> io::Result<()> {
        self.link.wait(self.writing.flush())?
    }
}

struct Client {
    known: KnownHost,
}

impl client::Handler for Client {
    type Error = Problem;

    async fn check_server_key(&mut self, shown: &PublicKeyOrCertificate) -> Result<bool, Problem> {
        match shown {
            PublicKeyOrCertificate::PublicKey { key, .. } => self.known.check(key).map_err(Problem::HostKey)?,
            PublicKeyOrCertificate::Certificate(_) => return Ok(false),
        }
        Ok(true)
    }
}

/// What a session ends with.
#[derive(Debug)]
enum Problem {
    HostKey(String),
    Session(russh::Error),
}

impl From<russh::Error> for Problem {
    fn from(error: russh::Error) -> Self {
        Self::Session(error)
    }
}

impl From<Problem> for SshError {
    fn from(problem: Problem) -> Self {
        match problem {
            Problem::HostKey(why) => Self::HostKey(why),
            Problem::Session(error) => Self::Unreachable(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";

    #[test]
    fn unusable_identities_say_why() {
        let pem = |label: &str, body: &str| format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n");
        let tell = |identity: &str| Login::new(identity, ONE).unwrap_err().to_string();
        assert!(tell("").contains("no private key"));
        assert!(tell(&pem("RSA PRIVATE KEY", "AAAA")).contains("ed25519"));
        // PKCS#8: a version, the OID of RSA, and no key.
        assert!(tell(&pem("PRIVATE KEY", "MBQCAQAwDQYJKoZIhvcNAQEBBQAEAA==")).contains("ed25519"));
        assert!(tell(&pem("ENCRYPTED PRIVATE KEY", "AAAA")).contains("passphrase"));
        assert!(tell(&pem("EC PRIVATE KEY", "Proc-Type: 4,ENCRYPTED")).contains("passphrase"));
    }

    #[test]
    fn a_login_needs_a_host_and_shows_no_key() {
        let key = PrivateKey::random(&mut rand::rng(), Algorithm::Ed25519).unwrap();
        let pem = key.to_openssh(russh::keys::ssh_key::LineEnding::LF).unwrap();
        assert!(Login::new(&pem, "example.com").unwrap_err().to_string().contains("no host key"));
        let login = Login::new(&pem, &format!("example.com {ONE}")).unwrap();
        assert_eq!(format!("{login:?}"), "Login(<redacted>)");
        assert!(Login::new(&pem.replace('\n', "\r\n"), &format!("example.com {ONE}")).is_ok());
    }

    #[test]
    fn paths_are_what_git_makes_of_them() {
        for (url, path) in [
            ("ssh://git@example.com/org/app.git", "/org/app.git"),
            ("ssh://example.com:22/a%20b", "/a b"),
            ("ssh://example.com/~ada/app", "~ada/app"),
        ] {
            assert_eq!(repository_path(&url.parse().unwrap()), path);
        }
        assert_eq!(host(&"ssh://[::1]:22/x".parse().unwrap()), "::1");
    }
}
