//! `cargo render`: makes the files of `deploy/` that are renderings of the chart anew.

use anyhow::{Context as _, Result};
use harness::chart::RENDERINGS;

fn main() -> Result<()> {
    tokio::runtime::Runtime::new()?.block_on(async {
        for rendering in RENDERINGS {
            let path = rendering.path();
            let text = rendering.render().await.with_context(|| format!("failed to render {}", path.display()))?;
            std::fs::write(&path, text).with_context(|| format!("failed to write {}", path.display()))?;
        }
        Ok(())
    })
}
