//! The story itself: one function a step, in the order in which they are told. A step ends well only when everything
//! that it says was seen to hold.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use harness::{Cluster, Controller, GitServer, binaries, process::Signal, tools::Tool};

use crate::{shell::Shell, story::Story};

/// How much of the controller's log a failure repeats.
const LAST_WORDS: usize = 15;

const PASSWORD: &str = "correct-horse-battery";
const NEW_PASSWORD: &str = "staple-after-the-leak";
const READ_PASSWORD: &str = "kubectl get secret db -o jsonpath='{.data.password}' | base64 -d";
const READ_KEY: &str = "kubectl get sealedsecret db -o jsonpath='{.status.unsealed.keys.password}'";
const LIST_KEYS: &str = "kubectl get secrets -n kube-system -l sealedsecrets.bitnami.com/sealed-secrets-key";

/// Everything that runs; stopped, first to last, when dropped.
pub struct Stage<'a> {
    controller: Controller,
    git: GitServer,
    shell: Shell<'a>,
    cluster: Cluster,
    story: &'a Story,
}

/// The whole story; what it started, still running.
pub async fn perform(story: &Story) -> Result<Stage<'_>> {
    get_ready(story).await?;
    let cluster = control_plane(story).await?;
    let shell = Shell::new(story, &cluster).await?;
    let controller = Box::pin(install(story, &cluster, &shell)).await?;
    let stage = Stage { controller, git: GitServer::start()?, shell, cluster, story };
    match stage.play().await {
        Ok(()) => Ok(stage),
        Err(error) => {
            let logs = stage.controller.logs().await?;
            let lines: Vec<&str> = logs.lines().collect();
            let last = lines[lines.len().saturating_sub(LAST_WORDS)..].join("\n");
            Err(error.context(format!("the controller's last words:\n{last}\n\nwhat went wrong")))
        }
    }
}

async fn get_ready(story: &Story) -> Result<()> {
    story.say("Getting ready: what is not built yet is built now, the Kubernetes programs once per machine.")?;
    for tool in [Tool::Etcd, Tool::ApiServer, Tool::Kubectl] {
        // These say for themselves when they need time.
        tool.path().await?;
    }
    let (_, took) = story.waiting("building seal and signet-controller", binaries::signet_controller()).await?;
    story.done("etcd, kube-apiserver, kubectl, seal and signet-controller are built", took)
}

async fn control_plane(story: &Story) -> Result<Cluster> {
    story.step("A control plane starts", "A real etcd and kube-apiserver on loopback, as upstream builds them.")?;
    let (cluster, took) = story.waiting("the API server to be ready", Cluster::start()).await?;
    story.done(&format!("{} is ready", cluster.server()), took)?;
    Ok(cluster)
}

async fn install(story: &Story, cluster: &Cluster, shell: &Shell<'_>) -> Result<Controller> {
    story.step(
        "Signet is installed",
        "One command. There is no node to run Pods, so the controller then runs beside the cluster: with the\n\
         token and the rights of its ServiceAccount and nothing else, behind its Service.",
    )?;
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the workspace has no folder")?;
    shell.show_in(workspace, "kubectl apply --server-side -k deploy").await?;
    shell.show_in(workspace, "kubectl wait --for=condition=established --all crd").await?;
    let (controller, took) = story.waiting("the controller to be ready", Box::pin(Controller::start(cluster))).await?;
    story.done("the controller has made its first key and is ready", took)?;
    Ok(controller)
}

impl Stage<'_> {
    async fn play(&self) -> Result<()> {
        self.seal().await?;
        self.push().await?;
        self.sync().await?;
        self.opened().await?;
        self.heal().await?;
        self.refuse_plain().await?;
        let old_key = self.rotate().await?;
        self.seal_with_the_new_key(&old_key).await?;
        self.summary()
    }

    async fn seal(&self) -> Result<()> {
        let Self { story, shell, .. } = self;
        story.step(
            "A developer seals a Secret",
            "seal asks the cluster for its certificate and encrypts each value. Only the controller can open them.",
        )?;
        shell.write("~/db-secret.yaml", &secret(PASSWORD))?;
        shell.show("cat ~/db-secret.yaml").await?;
        shell.show("seal -f ~/db-secret.yaml -w db.yaml").await?;
        let sealed = shell.show("cat db.yaml").await?;
        ensure!(sealed.contains("kind: SealedSecret"), "seal wrote no SealedSecret");
        ensure!(!sealed.contains(PASSWORD), "what seal wrote holds the password");
        ensure!(!sealed.contains(&BASE64_STANDARD.encode(PASSWORD)), "what seal wrote holds the password in base64");
        story.proven("db.yaml does not hold the password: it may be public")
    }

    async fn push(&self) -> Result<()> {
        let Self { story, shell, .. } = self;
        story
            .step("It goes to Git", "With a ConfigMap beside it, to a Git server on this machine, over smart HTTP.")?;
        let remote = self.git.create("shop").await?.url();
        shell.write("settings.yaml", SETTINGS)?;
        shell.show("cat settings.yaml").await?;
        shell.show("git init --quiet").await?;
        shell.show(&format!("git remote add origin {remote}")).await?;
        shell.show("git add db.yaml settings.yaml").await?;
        shell.show("git commit -m 'The shop: settings and password'").await?;
        shell.show("git push origin main").await?;
        let here = shell.quiet("git rev-parse main").await?;
        let there = shell.quiet("git ls-remote origin main").await?;
        ensure!(there.starts_with(here.trim()), "the server has {there:?}, not {here:?}");
        Ok(())
    }

    async fn sync(&self) -> Result<()> {
        let Self { story, shell, .. } = self;
        story.step("The cluster follows Git", "A GitSync names the repository. It looks every second.")?;
        let url = shell.quiet("git remote get-url origin").await?;
        shell.write("~/gitsync.yaml", &format!("{GIT_SYNC}    url: {url}"))?;
        shell.show("cat ~/gitsync.yaml").await?;
        shell.show("kubectl apply -f ~/gitsync.yaml").await?;
        shell.until("synced", "kubectl wait --for=condition=Ready gitsync/shop", met).await?;
        let ready = shell.show("kubectl get gitsync shop").await?;
        let head = shell.quiet("git rev-parse main").await?;
        ensure!(ready.contains("True") && ready.contains(head.trim()), "the GitSync is not at {head}");
        let applied = shell.show("kubectl get sealedsecrets,configmaps -l gitsync.signet.dev/name=shop").await?;
        for object in ["sealedsecret.bitnami.com/db", "configmap/settings"] {
            ensure!(applied.contains(object), "{object} was not applied");
        }
        Ok(())
    }

    async fn opened(&self) -> Result<()> {
        let Self { story, shell, .. } = self;
        story.step("The Secret is there", "The controller opened the SealedSecret as soon as it was applied.")?;
        shell.until("opened", "kubectl wait --for=condition=Synced sealedsecret/db", met).await?;
        shell.show("kubectl get sealedsecret,secret db").await?;
        let opened = shell.show(READ_PASSWORD).await?;
        ensure!(opened == PASSWORD, "{opened:?} was opened, and {PASSWORD:?} sealed");
        story.proven("that is what was sealed")
    }

    async fn heal(&self) -> Result<()> {
        let Self { story, shell, .. } = self;
        story.step(
            "Drift is healed",
            "Somebody deletes the Secret and edits the ConfigMap. What stands in Git counts.",
        )?;
        shell.show("kubectl delete secret db").await?;
        shell.until("the Secret is back", READ_PASSWORD, |value| value == PASSWORD).await?;
        shell.show(r#"kubectl patch configmap settings --type=merge -p '{"data":{"greeting":"hacked"}}'"#).await?;
        shell.until("healed", "kubectl wait --for=jsonpath='{.data.greeting}'=hello configmap/settings", met).await?;
        let events = "kubectl get events --field-selector reason=DriftCorrected";
        shell.until("told as an Event", events, |events| events.contains("settings")).await?;
        Ok(())
    }

    async fn refuse_plain(&self) -> Result<()> {
        let Self { story, shell, .. } = self;
        story.step(
            "A plain Secret in Git is refused",
            "Somebody commits the file that was never to be committed. Nothing of that commit is applied.",
        )?;
        shell.show("cp ~/db-secret.yaml oops.yaml").await?;
        shell.show("git add oops.yaml && git commit --quiet -m 'Oops' && git push --quiet origin main").await?;
        shell.until("refused", "kubectl wait --for=condition=Ready=false gitsync/shop", met).await?;
        let why = r#"kubectl get gitsync shop -o jsonpath='{.status.conditions[?(@.type=="Ready")].message}'"#;
        let why = shell.show(why).await?;
        ensure!(why.contains("seal -f oops.yaml"), "the refusal does not name the remedy");
        ensure!(!why.contains(PASSWORD), "the refusal tells the password");
        shell
            .show("git rm --quiet oops.yaml && git commit --quiet -m 'Not so' && git push --quiet origin main")
            .await?;
        shell.until("synced again", "kubectl wait --for=condition=Ready gitsync/shop", met).await?;
        story.say("  The password stays in Git's history, though: it has to change. The key changes first.")
    }

    /// The fingerprint of the old key.
    async fn rotate(&self) -> Result<String> {
        let Self { story, shell, .. } = self;
        story.step(
            "The key rotates, and the old SealedSecret goes on working",
            "The controller makes a new key every --key-renew-period (30 days), or at once on SIGUSR1, which it gets\n\
             now. New values are sealed with the new key; the old keys stay, to open what they sealed.",
        )?;
        let keys = shell.show(LIST_KEYS).await?;
        ensure!(count_keys(&keys) == 1, "the controller has not one key");
        let old_key = shell.show(READ_KEY).await?;
        let certificate = shell.quiet("seal --fetch-cert").await?;
        self.controller.signal(Signal::USR1).await?;
        story.say("  (SIGUSR1 is sent to the controller.)")?;
        shell.until("a second key", LIST_KEYS, |keys| count_keys(keys) == 2).await?;
        let renewed = shell.poll("seal --fetch-cert", |now| now.contains("CERTIFICATE") && now != certificate);
        let (_, took) = story.waiting("the new certificate to be served", renewed).await?;
        story.done("another certificate is served", took)?;
        shell.show("kubectl delete secret db").await?;
        shell.until("the old SealedSecret is opened again", READ_PASSWORD, |value| value == PASSWORD).await?;
        // The record of the opening is written last: only that of this Secret says which key opened it.
        let uid = shell.quiet("kubectl get secret db -o jsonpath='{.metadata.uid}'").await?;
        shell.poll("kubectl get sealedsecret db -o jsonpath='{.status.unsealed.secretUid}'", |of| of == uid).await?;
        let opened_by = shell.show(READ_KEY).await?;
        ensure!(!old_key.is_empty() && opened_by == old_key, "not the old key opened it");
        story.proven("opened by the old key")?;
        Ok(old_key)
    }

    async fn seal_with_the_new_key(&self, old_key: &str) -> Result<()> {
        let Self { story, shell, .. } = self;
        story
            .step("A new password, sealed with the new key", "The same three commands as ever: seal, commit, push.")?;
        shell.write("~/db-secret.yaml", &secret(NEW_PASSWORD))?;
        shell.show("grep password ~/db-secret.yaml").await?;
        shell.show("seal -f ~/db-secret.yaml -w db.yaml").await?;
        shell.show("git commit -am 'Another password'").await?;
        shell.show("git push origin main").await?;
        shell.until("the new password arrived", READ_PASSWORD, |value| value == NEW_PASSWORD).await?;
        let new = |key: &str| !key.is_empty() && key != old_key;
        shell.until("opened by the new key", READ_KEY, new).await?;
        Ok(())
    }

    fn summary(&self) -> Result<()> {
        self.story.step("That was it", "Seen on a real API server, each step checked:")?;
        for fact in [
            "a sealed Secret went through Git and came out as what was sealed",
            "what was deleted or edited by hand came back",
            "a plain Secret in Git was refused, and the refusal named the remedy",
            "a new key took over while the old SealedSecret went on working",
        ] {
            self.story.proven(fact)?;
        }
        self.story.say("\nKubeconfig of this cluster:")?;
        self.story.say(format!("  {}", self.cluster.kubeconfig().display()))?;
        self.story.say("To look around, in another terminal:")?;
        for line in self.shell.to_join().lines() {
            self.story.command(line)?;
        }
        for line in ["kubectl get gitsyncs,sealedsecrets,secrets", "kubectl delete secret db", "kubectl get events"] {
            self.story.command(line)?;
        }
        Ok(())
    }
}

/// What `kubectl wait` says when it need not wait any longer.
fn met(said: &str) -> bool {
    said.contains("condition met")
}

fn count_keys(listed: &str) -> usize {
    listed.lines().filter(|line| line.contains("kubernetes.io/tls")).count()
}

fn secret(password: &str) -> String {
    let metadata = "metadata:\n  name: db\n  namespace: default";
    format!("apiVersion: v1\nkind: Secret\n{metadata}\nstringData:\n  password: {password}\n")
}

const SETTINGS: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: settings\ndata:\n  greeting: hello\n";

/// Without its last line, the URL.
const GIT_SYNC: &str =
    "apiVersion: signet.dev/v1alpha1\nkind: GitSync\nmetadata:\n  name: shop\nspec:\n  interval: 1s\n  source:\n";
