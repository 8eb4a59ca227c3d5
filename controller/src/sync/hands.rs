//! Whose rights a sync has. It reads and writes what it is about as one ServiceAccount: the one that the GitSync names in
//! its own namespace, else the one that --default-service-account names there, else the sync's own. Never as the
//! controller. In another cluster it is the user of the kubeconfig instead of the sync's own, and the account, if one is
//! named, is one of that cluster.
//!
//! The watches that notice drift stay with the sync's own account, one for all GitSyncs of a kind: a tenant rarely may
//! list a kind in all namespaces, and a watch for each tenant would cost as much as all of them together. They show
//! metadata of labelled objects to the plan alone; of what the plan answers a tenant sees its own objects, and that
//! another GitSync has one.

use crds::GitSync;
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::{
    Api, Client,
    client::{Body, ClientBuilder},
};

use super::key;
use crate::{
    calls::{CallError, bounded},
    context::chain,
};

/// Why an account cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// Its bindings may outlive it; it has no rights any more.
    #[error("cannot act as the ServiceAccount {0}: it does not exist; make it, or correct spec.serviceAccountName")]
    Missing(String),
    /// The controller may not ask for it, or act as it.
    #[error("cannot act as the ServiceAccount {account}: {}; {advice}", chain(source))]
    Refused {
        /// Its namespace and name.
        account: String,
        /// What to do.
        advice: &'static str,
        /// The answer.
        source: CallError,
    },
}

/// Clients by account.
#[derive(Clone)]
pub struct Hands {
    /// With the rights of the sync's own account.
    own: Client,
    /// Which is that.
    own_account: String,
    /// With the controller's: it may act as others.
    controller: Client,
    default: Option<String>,
    advice: &'static str,
}

impl Hands {
    /// `default` is the account, in each GitSync's namespace, for those that name none.
    pub fn new((own, own_account): (Client, String), controller: Client, default: Option<String>) -> Self {
        let advice = "bind the ClusterRole signet-sync-tenant to the controller in that namespace: see Tenancy in \
                      docs/gitsync-guide.md";
        Self { own, own_account, controller, default, advice }
    }

    /// The same in another cluster, where all is done with this client.
    #[must_use]
    pub fn elsewhere(&self, client: Client, server: &str) -> Self {
        let advice = "in its cluster the user of the kubeconfig must be allowed to get and impersonate it: see Other \
                      clusters in docs/gitsync-guide.md";
        let own_account = format!("the user of the kubeconfig for {server}");
        Self { own: client.clone(), own_account, controller: client, default: self.default.clone(), advice }
    }

    /// For what nobody's rights are asked for.
    pub fn controller(&self) -> &Client {
        &self.controller
    }

    /// For what is not about one GitSync.
    pub fn own(&self) -> &Client {
        &self.own
    }

    /// The client of a GitSync.
    pub fn of(&self, sync: &GitSync) -> Client {
        let Some(name) = self.account(sync) else { return self.own.clone() };
        acting(&self.controller, &user(sync, name))
    }

    /// Whose rights those are, as the API server calls him.
    pub fn identity(&self, sync: &GitSync) -> String {
        self.account(sync).map_or_else(|| self.own_account.clone(), |name| user(sync, name))
    }

    /// Makes sure that its account is there: RBAC itself does not ask.
    pub async fn check(&self, sync: &GitSync) -> Result<(), AccountError> {
        let Some(name) = self.account(sync) else { return Ok(()) };
        let namespace = key(sync).0;
        let account = format!("{namespace}/{name}");
        let api: Api<ServiceAccount> = Api::namespaced(self.controller.clone(), &namespace);
        match bounded(api.get_metadata(name)).await {
            Ok(account) if account.metadata.deletion_timestamp.is_none() => Ok(()),
            Ok(_) => Err(AccountError::Missing(account)),
            Err(error) if error.is_not_found() => Err(AccountError::Missing(account)),
            Err(source) => Err(AccountError::Refused { account, advice: self.advice, source }),
        }
    }

    fn account<'a>(&'a self, sync: &'a GitSync) -> Option<&'a str> {
        sync.spec.service_account_name.as_deref().or(self.default.as_deref()).filter(|name| !name.is_empty())
    }
}

fn user(sync: &GitSync, name: &str) -> String {
    format!("system:serviceaccount:{}:{name}", key(sync).0)
}

/// The same connections, with another's rights.
fn acting(client: &Client, account: &str) -> Client {
    let (client, account) = (client.clone(), account.to_owned());
    let namespace = client.default_namespace().to_owned();
    let service = tower::service_fn(move |mut request: http::Request<Body>| {
        let client = client.clone();
        let header = http::HeaderValue::from_str(&account);
        async move {
            // Not without it: the request would have the controller's rights.
            let header = header.map_err(|error| kube::Error::Service(error.into()))?;
            request.headers_mut().insert("impersonate-user", header);
            client.send(request).await
        }
    });
    ClientBuilder::new(service, namespace).build()
}
