//! TLS before a server that has none: a host of its own authority, which lets in everybody, or only clients with a
//! certificate of that authority. It must not look at what passes.

use std::{net::Ipv4Addr, sync::Arc};

use anyhow::Result;
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use tokio::{io::copy_bidirectional, net::TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::{
    background::{Background, listen},
    certificates::{HostCertificates, Pair},
};

/// The front; stops when dropped.
pub struct TlsFront {
    port: u16,
    certificates: HostCertificates,
    _serving: Background,
}

impl TlsFront {
    /// Before what listens at a loopback port, under these names. Clients need a certificate.
    pub fn start(names: &[&str], behind: u16) -> Result<Self> {
        Self::before(names, behind, true)
    }

    /// The same for every client.
    pub fn open(names: &[&str], behind: u16) -> Result<Self> {
        Self::before(names, behind, false)
    }

    fn before(names: &[&str], behind: u16, asks: bool) -> Result<Self> {
        crate::install_crypto();
        let certificates = HostCertificates::mint(names)?;
        let mut known = RootCertStore::empty();
        known.add(CertificateDer::from_pem_slice(certificates.authority.as_bytes())?)?;
        let clients = if asks {
            WebPkiClientVerifier::builder(Arc::new(known)).build()?
        } else {
            WebPkiClientVerifier::no_client_auth()
        };
        let Pair { certificate, key } = &certificates.serving;
        let config = ServerConfig::builder().with_client_cert_verifier(clients).with_single_cert(
            vec![CertificateDer::from_pem_slice(certificate.as_bytes())?],
            PrivateKeyDer::from_pem_slice(key.as_bytes())?,
        )?;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let (listener, port) = listen()?;
        let serving = Background::run("tls", move || serve(listener, acceptor, behind))?;
        Ok(Self { port, certificates, _serving: serving })
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its authority, and a certificate and key that it lets in; PEM.
    pub fn certificates(&self) -> &HostCertificates {
        &self.certificates
    }
}

async fn serve(listener: std::net::TcpListener, acceptor: TlsAcceptor, behind: u16) -> Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        let acceptor = acceptor.clone();
        // A refused or broken connection is the client's to report.
        tokio::spawn(async move {
            let mut from = acceptor.accept(stream).await?;
            let mut to = TcpStream::connect((Ipv4Addr::LOCALHOST, behind)).await?;
            copy_bidirectional(&mut from, &mut to).await?;
            anyhow::Ok(())
        });
    }
}
