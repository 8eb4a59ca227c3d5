//! The certificates and keys of one cluster: its own CA, a serving certificate, the administrator's, and the key that
//! signs ServiceAccount tokens. All ECDSA, since RSA keys would cost more time than the API server takes to start.
//! Nothing here outlives the cluster; it must not be used for anything else.

use std::net::Ipv4Addr;

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};

/// PEM throughout.
pub struct Certificates {
    pub authority: String,
    pub serving: Pair,
    pub admin: Pair,
    pub service_account_key: String,
    pub service_account_public_key: String,
}

/// A certificate and its private key.
pub struct Pair {
    pub certificate: String,
    pub key: String,
}

impl Certificates {
    /// Mints them for an API server on loopback whose Service has `service_ip`.
    pub fn mint(service_ip: Ipv4Addr) -> Result<Self> {
        let mut params = named("signet-test-ca", None);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;

        let names = ["localhost", "kubernetes.default.svc", "127.0.0.1"].map(str::to_owned);
        let mut serving = CertificateParams::new([names.as_slice(), &[service_ip.to_string()]].concat())?;
        serving.distinguished_name.push(DnType::CommonName, "kube-apiserver");
        serving.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];

        // The group is what makes it the administrator: RBAC binds system:masters to everything.
        let mut admin = named("admin", Some("system:masters"));
        admin.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];

        let service_account = KeyPair::generate()?;
        Ok(Self {
            authority: authority.pem(),
            serving: Pair::sign(&serving, &authority)?,
            admin: Pair::sign(&admin, &authority)?,
            service_account_key: service_account.serialize_pem(),
            service_account_public_key: service_account.public_key_pem(),
        })
    }
}

/// Those of one host that serves TLS, and of a client that it knows.
pub struct HostCertificates {
    pub authority: String,
    pub serving: Pair,
    pub client: Pair,
}

impl HostCertificates {
    /// For a host of these names.
    pub fn mint(names: &[&str]) -> Result<Self> {
        let mut params = named("signet-test-host-ca", None);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let mut serving = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())?;
        serving.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let mut client = named("git-client", None);
        client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        Ok(Self {
            authority: authority.pem(),
            serving: Pair::sign(&serving, &authority)?,
            client: Pair::sign(&client, &authority)?,
        })
    }
}

impl Pair {
    fn sign(params: &CertificateParams, authority: &CertifiedIssuer<'_, KeyPair>) -> Result<Self> {
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, authority)?;
        Ok(Self { certificate: certificate.pem(), key: key.serialize_pem() })
    }
}

fn named(name: &str, group: Option<&str>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    if let Some(group) = group {
        params.distinguished_name.push(DnType::OrganizationName, group);
    }
    params
}
