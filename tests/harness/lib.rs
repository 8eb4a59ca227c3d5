//! Both sides of Signet on a real API server: everything the end-to-end tests and the demo start.
//!
//! Each module starts one real thing and hands out a handle; what is dropped is stopped, and what is never dropped
//! (a static, a killed process) is stopped by the [`scratch`] guardian. The harness asserts nothing: it starts, waits
//! and tells; the tests judge.
//!
//! Start reading at [`cluster::Cluster`], then [`controller::Controller`] and [`git::GitServer`].

pub mod background;
pub mod binaries;
pub mod certificates;
pub mod chart;
pub mod cluster;
pub mod collector;
pub mod command;
pub mod control_plane;
pub mod controller;
pub mod forward;
pub mod gate;
pub mod git;
pub mod go_build;
pub mod kubeconfig;
pub mod kubectl;
pub mod memory;
pub mod metrics;
pub mod phase;
pub mod process;
pub mod proxy;
pub mod publish;
pub mod release;
pub mod repository;
pub mod scratch;
pub mod seal;
pub mod ssh;
pub mod tls;
pub mod tools;
pub mod wait;

pub use cluster::{Cluster, ClusterOptions, shared, shared_with_controllers};
pub use collector::Collector;
pub use command::Output;
pub use control_plane::Server;
pub use controller::{Controller, ControllerOptions};
pub use forward::ForwardProxy;
pub use gate::{Asked, At, Gate, Held};
pub use git::GitServer;
pub use repository::Repository;
pub use seal::{kubeseal, seal};
pub use ssh::SshServer;
pub use tls::TlsFront;
pub use wait::eventually;

/// Chooses the one TLS implementation of the process; a second call changes nothing.
pub fn install_crypto() {
    // An error says that another is installed already, which is as good.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}
