//! A Git host over SSH: a real server with a host key, which lets one key in and runs one program for it. It must not
//! run anything else, nor serve anything outside its folder.

use std::{
    path::{Component, Path, PathBuf},
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::{Context as _, Result, bail};
use russh::{
    Channel, ChannelId,
    keys::{Algorithm, PrivateKey, PublicKey, ssh_key::LineEnding},
    server::{self, Auth, ChannelOpenHandle, Handler, Msg, Session, VerifiedPublicKey},
};
use tokio::io;

use crate::{
    background::{Background, listen},
    command,
    scratch::Scratch,
};

/// The server; stops when dropped.
pub struct SshServer {
    port: u16,
    private_key: String,
    host_key: String,
    old_protocol: Arc<AtomicBool>,
    _serving: Background,
    _home: Arc<Scratch>,
}

impl SshServer {
    /// Serves the bare repositories in `root`, such as [`crate::GitServer::root`], to whoever has [`Self::private_key`].
    pub fn start(root: &Path) -> Result<Self> {
        let mut random = rand::rng();
        let client = PrivateKey::random(&mut random, Algorithm::Ed25519)?;
        let host = PrivateKey::random(&mut random, Algorithm::Ed25519)?;
        let host_key = host.public_key().to_openssh()?;
        let home = Arc::new(Scratch::new("signet-ssh-")?);
        let login = Login {
            root: root.to_owned(),
            home: Arc::clone(&home),
            authorized: client.public_key().clone(),
            protocol: None,
            old_protocol: Arc::default(),
            channel: None,
        };
        let old_protocol = Arc::clone(&login.old_protocol);
        // A refusal need not be slow: there is nothing to guess here.
        let config = Arc::new(server::Config {
            keys: vec![host],
            auth_rejection_time: std::time::Duration::ZERO,
            ..server::Config::default()
        });
        let (listener, port) = listen()?;
        let serving = Background::run("ssh", move || serve(listener, config, login))?;
        let private_key = client.to_openssh(LineEnding::LF)?.to_string();
        Ok(Self { port, private_key, host_key, old_protocol, _serving: serving, _home: home })
    }

    /// From now on it speaks the oldest protocol, whatever it is asked: then a host hands out only what it advertises.
    pub fn speak_only_old_protocol(&self) {
        self.old_protocol.store(true, Ordering::Relaxed);
    }

    /// The URL of a repository in the folder, by its name without `.git`.
    pub fn url(&self, name: &str) -> String {
        format!("ssh://git@127.0.0.1:{}/{name}.git", self.port)
    }

    /// The key that is let in, as OpenSSH's PEM.
    pub fn private_key(&self) -> &str {
        &self.private_key
    }

    /// The line of a known_hosts file by which a client knows this server.
    pub fn known_hosts(&self) -> String {
        format!("[127.0.0.1]:{} {}\n", self.port, self.host_key)
    }
}

/// Makes an ed25519 key as ssh-keygen does: the private part in a file; the public one.
pub fn key_pair(path: &str) -> Result<String> {
    let key = PrivateKey::random(&mut rand::rng(), Algorithm::Ed25519)?;
    std::fs::write(path, key.to_openssh(LineEnding::LF)?.as_bytes())?;
    Ok(key.public_key().to_openssh()?)
}

async fn serve(listener: std::net::TcpListener, config: Arc<server::Config>, login: Login) -> Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        let (config, login) = (Arc::clone(&config), login.clone());
        // A broken session is the client's to report.
        tokio::spawn(async move { anyhow::Ok(server::run_stream(config, stream, login).await?.await?) });
    }
}

/// One connection.
struct Login {
    root: PathBuf,
    home: Arc<Scratch>,
    authorized: PublicKey,
    protocol: Option<String>,
    old_protocol: Arc<AtomicBool>,
    channel: Option<Channel<Msg>>,
}

impl Clone for Login {
    fn clone(&self) -> Self {
        Self {
            root: self.root.clone(),
            home: Arc::clone(&self.home),
            authorized: self.authorized.clone(),
            protocol: None,
            old_protocol: Arc::clone(&self.old_protocol),
            channel: None,
        }
    }
}

impl Handler for Login {
    type Error = anyhow::Error;

    async fn auth_publickey(&mut self, _user: &str, key: VerifiedPublicKey<'_>) -> Result<Auth> {
        let known = key.public_key.key_data() == self.authorized.key_data();
        Ok(if known { Auth::Accept } else { Auth::reject() })
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<()> {
        self.channel = Some(channel);
        reply.accept().await;
        Ok(())
    }

    async fn env_request(&mut self, channel: ChannelId, name: &str, value: &str, session: &mut Session) -> Result<()> {
        if name == "GIT_PROTOCOL" && !self.old_protocol.load(Ordering::Relaxed) {
            self.protocol = Some(value.to_owned());
            session.channel_success(channel)?;
        } else {
            session.channel_failure(channel)?;
        }
        Ok(())
    }

    async fn exec_request(&mut self, channel: ChannelId, data: &[u8], session: &mut Session) -> Result<()> {
        let repository = self.repository(data);
        let (Some(open), Ok(repository)) = (self.channel.take(), repository) else {
            session.channel_failure(channel)?;
            return Ok(());
        };
        session.channel_success(channel)?;
        let mut git = command::clean("git", self.home.path());
        git.args(["upload-pack", "--strict"]).arg(repository);
        git.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
        git.envs(self.protocol.iter().map(|version| ("GIT_PROTOCOL", version)));
        tokio::spawn(async move { upload(open, git).await });
        Ok(())
    }
}

impl Login {
    /// The folder that `git-upload-pack '/name.git'` means.
    fn repository(&self, request: &[u8]) -> Result<PathBuf> {
        let request = std::str::from_utf8(request)?;
        let path = request.strip_prefix("git-upload-pack ").context("only git-upload-pack may be run")?;
        let path = Path::new(path.trim_matches('\'').trim_start_matches('/'));
        if !path.components().all(|part| matches!(part, Component::Normal(_))) {
            bail!("{} leads out of the folder", path.display());
        }
        Ok(self.root.join(path))
    }
}

/// Ties git to the channel until git ends.
async fn upload(mut channel: Channel<Msg>, mut git: tokio::process::Command) -> Result<()> {
    let mut child =
        git.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true).spawn()?;
    let (mut requests, mut answers) = child.stdin.take().zip(child.stdout.take()).context("git has no pipes")?;
    let mut writer = channel.make_writer();
    let status = {
        let reading = async {
            let mut reader = channel.make_reader();
            let _ = io::copy(&mut reader, &mut requests).await;
            drop(requests);
            std::future::pending::<()>().await;
        };
        let writing = async {
            let _ = io::copy(&mut answers, &mut writer).await;
            child.wait().await
        };
        tokio::select! { () = reading => return Ok(()), status = writing => status? }
    };
    channel.exit_status(status.code().unwrap_or(1).unsigned_abs()).await?;
    channel.eof().await?;
    channel.close().await?;
    Ok(())
}
