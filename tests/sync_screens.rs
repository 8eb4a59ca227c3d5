//! `docs/seal-sync.md`: its commands by a shell, on a real cluster, each with what it answers. A screen that changes
//! fails here until the document says so.

use anyhow::Result;
use harness::GitServer;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::{
    book::{Desk, Page},
    world::{Place, World, follow},
};

fn web(colour: &str) -> String {
    let map = format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: web}}\ndata: {{colour: {colour}}}\n");
    map + "---\napiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {selector: {app: web}, ports: [{port: 80}]}\n"
}

#[tokio::test]
async fn every_screen_of_the_document_is_as_it_says() -> Result<()> {
    let world = World::new().await?;
    let git = GitServer::start()?;
    let repository = git.create("shop").await?;
    world.cluster.kubectl(&["create", "namespace", "shop"]).await?;
    let place = Place { world: &world, namespace: "shop".to_owned(), client: world.cluster.admin().await? };
    let db = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: db}\n";
    repository.write("db/db.yaml", db)?;
    repository.write("web/all.yaml", web("blue"))?;
    repository.write("sealed/db.yaml", place.world.seal(&place.secret("db", &[("a", "1")]), &[]).await?)?;
    let commit = repository.commit("one").await?;
    for name in ["db", "web"] {
        follow(&place, name, &repository, json!({"path": name})).await?;
        place.applied(name, &commit).await?;
    }
    repository.write("db/db.yaml", format!("{db}---\napiVersion: v1\n"))?;
    let commit = repository.commit("two").await?;
    place.ready("db", |ready, _| ready.reason == "BuildFailed").await?;
    place.applied("web", &commit).await?;

    let page = Page::read("seal-sync.md")?;
    let desk = Desk::new(Some(repository.work_tree()), Some(world.cluster.kubeconfig())).await?;
    let mut last = "";
    for step in &page.steps {
        match step.heading.as_str() {
            "Before a merge" if last != step.heading => repository.write("web/all.yaml", web("green"))?,
            "Sync now, and wait" if last != step.heading => drop(repository.commit("green").await?),
            "Allow a plan" if last != step.heading => {
                let manual = Patch::Merge(json!({"spec": {"syncPolicy": "Manual"}}));
                place.syncs().patch("web", &PatchParams::default(), &manual).await?;
                repository.write("web/all.yaml", web("red"))?;
                repository.commit("red").await?;
                place.ready("web", |ready, _| ready.reason == "ApprovalRequired").await?;
            }
            "Go back" if last != step.heading => {
                let automatic = Patch::Merge(json!({"spec": {"syncPolicy": "Automatic"}}));
                place.syncs().patch("web", &PatchParams::default(), &automatic).await?;
                place.applied("web", &repository.head().await?).await?;
            }
            _ => {}
        }
        last = &step.heading;
        desk.follow(step).await?;
    }
    Ok(())
}
