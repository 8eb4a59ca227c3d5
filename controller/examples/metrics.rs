//! Prints the table of all metrics: `cargo run -p controller --example metrics > docs/metrics.md`.
#![expect(clippy::print_stdout, reason = "printing is what it is for")]

fn main() -> Result<(), std::fmt::Error> {
    print!("{}", controller::metrics::table()?);
    Ok(())
}
