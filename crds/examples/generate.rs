//! Prints the custom resource definitions: `cargo run -p crds --example generate > crds/crds.yaml`.
#![expect(clippy::print_stdout, reason = "printing is what it is for")]

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("# Generated: cargo run -p crds --example generate > crds/crds.yaml");
    for definition in crds::definitions() {
        print!("---\n{}", crds::yaml::to_string(&definition)?);
    }
    Ok(())
}
