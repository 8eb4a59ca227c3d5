//! The sealed format against vectors made by the real kubeseal, and the definitions against upstream's schema.

mod definitions;
mod vectors;
