//! From the files of a repository to the objects that a `GitSync` applies: what the controller does, and what `seal sync`
//! shows beforehand. Pure; what is done with the objects is the controller's alone.

pub mod choice;
pub mod digest;
pub mod health;
pub mod history;
pub mod hook;
pub mod ignore;
pub mod images;
pub mod inventory;
pub mod kinds;
pub mod marks;
pub mod notify;
pub mod object;
pub mod order;
pub mod render;
pub mod state;
pub mod substitute;

/// Name under which the objects are applied: its fields are told from everyone else's.
pub const FIELD_MANAGER: &str = "signet-gitsync";
