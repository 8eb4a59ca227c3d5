//! The sealed format against vectors made by the real kubeseal, and the definitions against upstream's schema.
#![allow(clippy::unwrap_used, reason = "a test may fail by panic")]

mod definitions;
mod key_life;
mod reseal;
mod templates;
mod vectors;
