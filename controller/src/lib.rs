//! The controller: opens SealedSecrets, keeps their keys, follows Git.
//!
//! ```text
//!   key Secrets ─watch─▶ keys ──KeyRing──▶ unseal ──▶ Secrets, status, Events
//!                         │                  ▲   │
//!                         └─ http (/v1)      │   └─ whether each SealedSecret opened
//!                                            │                 │
//!   Git ─fetch─▶ sync/source ─▶ render ─▶ plan ─▶ execute ─▶ objects (SealedSecrets among them)
//! ```
//!
//! | module | touches the world | |
//! |---|---|---|
//! | [`args`], [`telemetry`], [`traces`], [`audit`], [`metrics`] | | flags, logs, spans, the audit record, counters |
//! | [`runtime`], [`drive`], [`calls`], [`pace`], [`queue`], [`pulse`], [`http`], [`events`], [`context`] | IO | composition; no decisions |
//! | [`observed`], [`kept`], [`backoff`], [`health`], [`exit`] | pure | what a watch has shown, and in what form it is kept; how long to wait; who is stuck; how it ends |
//! | [`skew`] | IO, with `fields` pure | whether the cluster's definitions are ours |
//! | [`keys`] | IO | the ring of keys, minting; `crds::key_life` decides |
//! | [`lead`] | IO, with `lease` pure | which of several replicas works |
//! | [`unseal`] | IO, with `adopt`, `choices`, `decide`, `status` pure | SealedSecret to Secret |
//! | [`sync`] | IO, with `plan`, `status` and more pure; `crds::sync` renders | Git to cluster |
//!
//! `keys`, `unseal` and `sync` meet only in [`context`] and [`runtime`]. `tests/shape.rs` keeps the pure files pure.

pub mod args;
pub mod audit;
pub mod backoff;
pub mod calls;
pub mod context;
pub mod drive;
pub mod events;
pub mod exit;
pub mod fight;
pub mod health;
pub mod http;
pub mod kept;
pub mod keys;
pub mod lead;
pub mod metrics;
pub mod observed;
pub mod pace;
pub mod pulse;
pub mod queue;
pub mod runtime;
pub mod skew;
pub mod sync;
pub mod telemetry;
pub mod traces;
pub mod unseal;
