//! The verbs after `seal`, run as programs in a folder of their own.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use crds::{SealedSecret, unseal};

use crate::{opens::ring, stub::Stub, verbs::controller};

const TESTDATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../crds/testdata");
const VERBS: [&str; 12] =
    ["cert", "raw", "get", "verify", "diff", "set", "unset", "edit", "reseal", "unseal", "audit", "completion"];
pub const KEYED: [&str; 2] = ["--recovery-private-key", "new.key"];

pub struct Folder(tempfile::TempDir);

pub struct Done {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Folder {
    /// With a certificate, its key and a sealed file of several documents.
    pub fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        for (file, name) in [("new.crt", "cert.pem"), ("new.key", "new.key"), ("secret.yaml", "secret.yaml")] {
            fs::copy(Path::new(TESTDATA).join(file), folder.path(name)).unwrap();
        }
        folder.write("password.txt", "hunter2");
        let items = |name: &str| {
            let value =
                |item: &str| folder.run(&["raw", "--cert", "cert.pem", &format!("shop/{name}")], item, "").stdout;
            format!("    # by ops\n    password: '{}' # yearly\n    user: >-\n      {}\n", value("old"), value("app"))
        };
        let sealed = |name: &str| {
            format!(
                "apiVersion: bitnami.com/v1alpha1\nkind: SealedSecret\nmetadata:\n  name: {name} # ours\n  namespace: shop\nspec:\n  encryptedData:\n{}  template:\n    type: Opaque\n",
                items(name)
            )
        };
        folder.write("sealed.yaml", &sealed("db"));
        folder.write("two.yaml", &format!("# head\n{}---\n{}", sealed("db"), sealed("web")));
        folder
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    pub fn run(&self, args: &[&str], stdin: &str, editor: &str) -> Done {
        self.program(Command::new(env!("CARGO_BIN_EXE_seal")).args(args), stdin, editor)
    }

    fn program(&self, command: &mut Command, stdin: &str, editor: &str) -> Done {
        let bin = Path::new(env!("CARGO_BIN_EXE_seal")).parent().unwrap().display().to_string();
        let path = std::env::var("PATH").unwrap();
        command.env_clear().env("PATH", format!("{bin}:{path}")).env("EDITOR", editor).env("TMPDIR", self.path("tmp"));
        fs::create_dir_all(self.path("tmp")).unwrap();
        command.current_dir(self.0.path()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // A program that needs no input may be gone before it has all of it.
        let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
        let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Done { code: status.code(), stdout: text(stdout), stderr: text(stderr) }
    }

    /// The values of a file's first SealedSecret.
    fn values(&self, name: &str) -> Vec<(String, String)> {
        let document = crds::yaml::documents(&self.read(name)).remove(0);
        let mut sealed: SealedSecret = serde_json::from_value(document.value.unwrap()).unwrap();
        sealed.spec.template = None;
        let values = unseal::open(&sealed, &ring(), None).outcome.unwrap().values;
        values.iter().map(|(item, value)| (item.clone(), String::from_utf8(value.expose().to_vec()).unwrap())).collect()
    }

    /// That nothing in the clear stayed behind.
    fn is_clean(&self) -> bool {
        fs::read_dir(self.path("tmp")).unwrap().count() == 0
    }
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(item, value)| ((*item).to_owned(), (*value).to_owned())).collect()
}

/// What differs, line by line.
fn changed(before: &str, after: &str) -> usize {
    assert_eq!(before.lines().count(), after.lines().count());
    before.lines().zip(after.lines()).filter(|(before, after)| before != after).count()
}

#[test]
fn every_example_of_the_help_works() {
    for verb in VERBS {
        let folder = Folder::new();
        folder.run(&["set", "--cert", "cert.pem", "other", "sealed.yaml"], "x", "");
        fs::create_dir(folder.path("deploy")).unwrap();
        fs::copy(folder.path("sealed.yaml"), folder.path("deploy/sealed.yaml")).unwrap();
        folder.write("controller.log", include_str!("../audit/controller.log"));
        let git = "git init -q && git add . && git -c user.name=a -c user.email=a@b commit -qm one";
        assert_eq!(folder.program(Command::new("sh").args(["-c", git]), "", "").code, Some(0));
        let help = folder.run(&[verb, "--help"], "", "").stdout;
        let example = help.split("Example:\n").nth(1).unwrap().lines().next().unwrap().trim().to_owned();
        assert!(help.contains("\nExit codes"), "{help}");
        let done = folder.program(Command::new("sh").args(["-c", &example]), "", "true");
        assert_eq!((done.code, done.stderr.as_str()), (Some(0), ""), "{example}");
    }
}

#[test]
fn an_item_is_set_where_it_stands() {
    let folder = Folder::new();
    let before = folder.read("sealed.yaml");
    let done = folder.run(&["set", "--cert", "cert.pem", "password", "sealed.yaml"], "new", "");
    assert_eq!((done.code, done.stdout.as_str(), done.stderr.as_str()), (Some(0), "", ""));
    assert_eq!(folder.values("sealed.yaml"), pairs(&[("password", "new"), ("user", "app")]));
    let after = folder.read("sealed.yaml");
    assert_eq!(changed(&before, &after), 1);
    assert!(after.contains("' # yearly\n"), "quotes and comment stay");

    let done = folder.run(&["set", "--cert", "cert.pem", "--from-file", "password.txt", "more", "sealed.yaml"], "", "");
    assert_eq!(done.code, Some(0));
    assert_eq!(folder.values("sealed.yaml")[0], ("more".to_owned(), "hunter2".to_owned()));
    assert_eq!(folder.run(&["unset", "more", "sealed.yaml"], "", "").code, Some(0));
    assert_eq!(folder.read("sealed.yaml"), after);
}

#[test]
fn a_value_that_is_sealed_already_is_not_sealed_again() {
    let folder = Folder::new();
    let before = folder.read("sealed.yaml");
    let set = |value, keys: &[&str]| {
        let args = ["set", "--cert", "cert.pem", "password", "sealed.yaml"];
        assert_eq!(folder.run(&[&args[..], keys].concat(), value, "").code, Some(0));
        folder.read("sealed.yaml")
    };
    assert_eq!(set("old", &KEYED), before);
    assert_eq!(changed(&set("old", &[]), &before), 1, "without the key nobody can know");
    assert_eq!(changed(&set("new", &KEYED), &before), 1);
}

#[test]
fn a_value_on_the_command_line_is_warned_of_and_never_repeated() {
    let folder = Folder::new();
    let done = folder.run(&["set", "--cert", "cert.pem", "password=hunter=2", "sealed.yaml"], "", "");
    assert_eq!(done.code, Some(0));
    assert!(done.stderr.starts_with("warning: a value on the command line is seen by others"), "{}", done.stderr);
    assert!(!done.stderr.contains("hunter"));
    assert_eq!(folder.values("sealed.yaml")[0].1, "hunter=2");
}

/// What is typed at a terminal is asked for without echo; here is no terminal to do that on, so it is not read at all.
#[test]
fn a_value_is_never_typed_where_it_would_be_shown() {
    let folder = Folder::new();
    let (sealed, certificate) = (folder.path("sealed.yaml"), folder.path("cert.pem"));
    let before = folder.read("sealed.yaml");
    let args = ["seal", "set", "--cert", certificate.to_str().unwrap(), "password", sealed.to_str().unwrap()];
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let mut io = cli::Io {
        stdin: Box::new(&b"hunter3\n"[..]),
        stdout: Box::new(&mut stdout),
        stderr: Box::new(&mut stderr),
        stdin_is_terminal: true,
        stderr_is_read: false,
        colour: false,
        colour_stdout: false,
        width: None,
        now: jiff::Timestamp::UNIX_EPOCH,
    };
    assert_eq!(cli::run(args.map(Into::into), &mut io), cli::Exit::Failed);
    drop(io);
    let stderr = String::from_utf8(stderr).unwrap();
    assert!(stderr.contains("cannot ask for the value: pipe it in, or name a file with --from-file"), "{stderr}");
    assert_eq!((folder.read("sealed.yaml"), stdout.is_empty()), (before, true));
}

#[test]
fn what_cannot_be_set_leaves_the_file_alone() {
    let folder = Folder::new();
    folder.write("homeless.yaml", &folder.read("sealed.yaml").replace("  namespace: shop\n", ""));
    folder.write("none.yaml", "kind: ConfigMap\n");
    for (args, words) in [
        (&["a/b", "sealed.yaml"][..], "a Secret takes letters, digits, '-', '_' and '.' for a key, but not \"a/b\""),
        (&["a", "two.yaml"], "two.yaml has several SealedSecrets: document 1, line 2 (shop/db); document 2, line"),
        (&["a", "two.yaml", "--name", "shop/none"], "two.yaml has no SealedSecret \"shop/none\", but document 1"),
        (&["a", "sealed.yaml", "-n", "bank"], "namespace mismatch: sealed.yaml is for the namespace \"shop\""),
        (&["a", "homeless.yaml"], "homeless.yaml: metadata.namespace is missing"),
        (&["a", "none.yaml"], "none.yaml: there is no SealedSecret in it"),
        (&["a", "missing.yaml"], "open missing.yaml: no such file or directory"),
        (&["a=1", "sealed.yaml", "--from-file", "password.txt"], "KEY=VALUE and --from-file name two values"),
    ] {
        let file = args[1];
        let before = fs::read(folder.path(file)).ok();
        let done = folder.run(&[&["set", "--cert", "cert.pem"], args].concat(), "x", "");
        assert_eq!(done.code, Some(1), "{args:?}");
        assert!(done.stderr.starts_with(&format!("error: {words}")), "{}", done.stderr);
        assert_eq!(fs::read(folder.path(file)).ok(), before);
    }
    let done = folder.run(&["unset", "none", "sealed.yaml"], "", "");
    assert_eq!(done.stderr, "error: \"none\" is not among the items: password, user\n");
    let done = folder.run(&["set", "--cert", "cert.pem", "a", "homeless.yaml", "-n", "shop"], "x", "");
    assert_eq!(done.code, Some(0));
    let done = folder.run(&["set", "--cert", "cert.pem", "password", "two.yaml", "--name", "web"], "x", "");
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert_eq!(folder.values("two.yaml")[0].1, "old", "the other one");
}

#[test]
fn an_editor_changes_only_what_it_changes() {
    let folder = Folder::new();
    let before = folder.read("sealed.yaml");
    let edit = |editor: &str, more: &[&str]| {
        folder.run(&[&["edit", "--cert", "cert.pem", "sealed.yaml"], more].concat(), "", editor)
    };
    let done = edit("true", &[]);
    assert_eq!((done.code, folder.read("sealed.yaml")), (Some(0), before.clone()), "{}", done.stderr);

    let done = edit("sed -i -e 's/^  password: .*/  password: new/' -e 's/type: Opaque/type: other/'", &[]);
    assert_eq!((done.code, done.stderr.as_str()), (Some(0), ""));
    assert_eq!(folder.values("sealed.yaml"), pairs(&[("password", "new"), ("user", "app")]));
    assert_eq!(changed(&folder.read("sealed.yaml"), &before), 2);

    let done = edit("sed -i -e '/^  password/d' -e 's/^  user: .*/&\\n  token: t/'", &[]);
    assert_eq!((done.code, done.stderr.as_str()), (Some(0), ""));
    assert_eq!(folder.values("sealed.yaml"), pairs(&[("token", "t"), ("user", "app")]));
    assert!(folder.is_clean());
}

#[test]
fn what_somebody_does_to_a_file_meanwhile_is_not_undone() {
    const MORE: &str = "---\nkind: ConfigMap\n";
    let folder = Folder::new();
    folder.write("more.yaml", MORE);
    let (before, path) = (folder.read("sealed.yaml"), folder.path("sealed.yaml"));
    let certificate = folder.read("cert.pem");
    let stub = Stub::start(move |request| {
        fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(MORE.as_bytes()).unwrap();
        if request.path.ends_with("/v1/cert.pem") { (200, certificate.clone()) } else { controller(request) }
    });
    let plain = "kind: Secret\nmetadata: {name: db}\nstringData: {new: x}\n";
    let editor = "sh -c 'cat more.yaml >> sealed.yaml; sed -i s/Opaque/other/ \"$1\"' sh";
    for (line, code) in [
        ("edit --cert cert.pem sealed.yaml", 1),
        ("set --kubeconfig= --server SERVER password sealed.yaml", 1),
        ("--kubeconfig= --server SERVER --merge-into sealed.yaml", 1),
        ("--kubeconfig= --server SERVER --re-encrypt -f sealed.yaml", 1),
        ("reseal --kubeconfig= --server SERVER sealed.yaml", 3),
    ] {
        folder.write("sealed.yaml", &before);
        let args = line.replace("SERVER", &stub.address);
        let done = folder.run(&args.split(' ').collect::<Vec<_>>(), plain, editor);
        let words = "write sealed.yaml: it was changed by somebody else meanwhile, and stays as they left it: run this";
        assert!(done.code == Some(code) && done.stderr.contains(words), "{line}: {:?} {}", done.code, done.stderr);
        assert_eq!(folder.read("sealed.yaml"), format!("{before}{MORE}"), "{line}");
    }
}

#[test]
fn values_are_shown_only_to_who_may_see_them_and_only_for_the_time() {
    let folder = Folder::new();
    let before = folder.read("sealed.yaml");
    let spy = "sh -c 'cat \"$1\" > seen; stat -c %a \"$1\" \"$(dirname \"$1\")\" >> seen; cp \"$1\" \"$1~\"' sh";
    assert_eq!(folder.run(&["edit", "sealed.yaml"], "", spy).code, Some(0));
    let seen = folder.read("seen");
    assert!(seen.contains("password: <sealed>\n") && !seen.contains("old") && seen.ends_with("600\n700\n"), "{seen}");
    assert_eq!(folder.run(&[&["edit", "sealed.yaml"], &KEYED[..]].concat(), "", spy).code, Some(0));
    let seen = folder.read("seen");
    assert!(seen.contains("  password: old\n  user: app\n"), "{seen}");
    assert!(folder.is_clean(), "copies of the editor's too");
    assert_eq!(folder.read("sealed.yaml"), before);
    // What is seen and stays is not sealed again.
    let change = "sed -i 's/user: app/user: web/'";
    let args = [&["edit", "--cert", "cert.pem", "sealed.yaml"], &KEYED[..]].concat();
    assert_eq!(folder.run(&args, "", change).code, Some(0));
    assert_eq!(changed(&folder.read("sealed.yaml"), &before), 1);
}

/// The editor outlives what ends seal, until its file is gone; a shell that counts this far has waited long enough.
#[test]
fn an_interrupted_edit_leaves_nothing_in_the_clear() {
    let gone = "until_gone() { i=0; while [ -e \"$1\" ] && [ $i -lt 9999999 ]; do i=$((i+1)); done; }; until_gone";
    for signal in ["HUP", "TERM"] {
        let folder = Folder::new();
        let before = folder.read("sealed.yaml");
        let args = [&["edit", "--cert", "cert.pem", "sealed.yaml"], &KEYED[..]].concat();
        let done = folder.run(&args, "", &format!("cp \"$1\" \"$1~\"; kill -{signal} $PPID; {gone}"));
        assert_eq!((done.code, done.stderr.as_str()), (Some(1), "error: interrupted, so nothing was changed\n"));
        assert!(folder.is_clean() && folder.read("sealed.yaml") == before, "{signal}");
    }
    // What is pressed at the terminal is for the editor, which goes on.
    for signal in ["INT", "QUIT"] {
        let folder = Folder::new();
        let editor = format!("kill -{signal} $PPID; sed -i 's/^  password: .*/  password: new/'");
        let done = folder.run(&["edit", "--cert", "cert.pem", "sealed.yaml"], "", &editor);
        assert_eq!((done.code, done.stderr.as_str()), (Some(0), ""), "{signal}");
        assert!(folder.is_clean() && folder.values("sealed.yaml")[0].1 == "new");
    }
}

#[test]
fn what_an_editor_spoils_is_offered_again_and_never_written() {
    let folder = Folder::new();
    let before = folder.read("sealed.yaml");
    let edit = |editor: &str| folder.run(&["edit", "--cert", "cert.pem", "sealed.yaml"], "", editor);
    let done = edit("false");
    assert_eq!(done.code, Some(1));
    assert_eq!(done.stderr, "error: the editor \"false\" failed (exit status: 1), so nothing was changed\n");
    assert_eq!(edit("no-such-editor-here").code, Some(1));
    // Wrong at first, right at the second attempt.
    let second = "sh -c 'if grep -q ERROR \"$1\"; then sed -i \"s/  user: .*/  user: web/\" \"$1\"; else sed -i \"s/  user: .*/  user: [hunter2]/\" \"$1\"; fi' sh";
    let done = edit(second);
    assert_eq!(done.stderr, "warning: stringData.user must be a string: put it in quotes\n");
    assert_eq!((done.code, folder.values("sealed.yaml")[1].1.as_str()), (Some(0), "web"));
    folder.write("sealed.yaml", &before);
    // Wrong, and left as it was offered.
    let done = edit("sh -c 'grep -q ERROR \"$1\" || sed -i \"s/  user: .*/  user: [hunter2]/\" \"$1\"' sh");
    assert_eq!(done.code, Some(1));
    assert!(done.stderr.ends_with("error: nothing was changed, because what was written cannot be used: stringData.user must be a string: put it in quotes\n"), "{}", done.stderr);
    assert!(!done.stderr.contains("hunter2"));
    // Wrong in another way each time, by a program that nobody stops: it is asked twice.
    let done = edit("sh -c 'echo hunter2 >> \"$1\"; echo >> rounds; test $(wc -l < rounds) -lt 5' sh");
    assert_eq!((done.code, folder.read("rounds").as_str()), (Some(1), "\n\n"), "{}", done.stderr);
    // A template that no API server would take.
    for (wrong, words) in [
        ("metadata: 5", "spec.template.metadata must be a mapping"),
        ("metadata: {labels: {tier: 5}}", "spec.template.metadata.labels.tier must be a string: put it in quotes"),
        ("data: [a]", "spec.template.data must be a mapping"),
    ] {
        let done = edit(&format!("sh -c 'grep -q ERROR \"$1\" || sed -i \"s/  type: .*/  {wrong}/\" \"$1\"' sh"));
        assert_eq!(done.code, Some(1), "{wrong}");
        assert!(done.stderr.ends_with(&format!("cannot be used: {words}\n")), "{}", done.stderr);
    }
    assert_eq!(folder.read("sealed.yaml"), before);
    assert_eq!(edit("sed -i s/^..user:.*/\\ \\ user:\\ 5432/").code, Some(0));
    assert_eq!(folder.values("sealed.yaml")[1].1, "5432", "a number is the text that is written");
    assert!(folder.is_clean());
}

#[test]
fn versions_are_compared_without_showing_a_value() {
    let folder = Folder::new();
    fs::copy(folder.path("sealed.yaml"), folder.path("before.yaml")).unwrap();
    let diff = |more: &[&str]| folder.run(&[&["diff", "before.yaml", "sealed.yaml"], more].concat(), "", "");
    assert_eq!((diff(&[]).code, diff(&[]).stdout.as_str()), (Some(0), ""));
    folder.run(&["set", "--cert", "cert.pem", "password", "sealed.yaml"], "old", "");
    folder.run(&["set", "--cert", "cert.pem", "user", "sealed.yaml"], "hunter2", "");
    folder.write("sealed.yaml", &folder.read("sealed.yaml").replace("Opaque", "other"));
    let done = diff(&[]);
    let lines = "~ shop/db: encryptedData.password\n~ shop/db: encryptedData.user\n~ shop/db: spec.template.type\n";
    assert_eq!((done.code, done.stdout.as_str()), (Some(1), lines));
    let lines = "~ shop/db: encryptedData.password (the same value, sealed again)\n~ shop/db: encryptedData.user (another value)\n~ shop/db: spec.template.type\n";
    assert_eq!(diff(&KEYED).stdout, lines);
    let stdin = folder.run(&["diff", "sealed.yaml"], &folder.read("before.yaml"), "");
    assert_eq!((stdin.code, stdin.stdout), (Some(1), done.stdout));
    let new = folder.run(&["diff", "two.yaml"], "", "");
    assert_eq!((new.code, new.stdout.as_str()), (Some(1), "+ shop/db\n+ shop/web\n"));
    assert_eq!(folder.run(&["diff", "before.yaml", "none.yaml"], "", "").code, Some(2));
}

#[test]
fn with_keys_verify_really_opens() {
    let folder = Folder::new();
    let verify = |file: &str| folder.run(&[&["verify", file], &KEYED[..]].concat(), "", "");
    assert_eq!((verify("two.yaml").code, verify("two.yaml").stdout.as_str()), (Some(0), ""));
    folder.write("two.yaml", &folder.read("two.yaml").replace("name: web", "name: other"));
    let done = verify("two.yaml");
    assert_eq!(done.code, Some(1));
    assert!(done.stdout.contains(": shop/other: no key could decrypt password: "), "{}", done.stdout);
    assert!(done.stdout.starts_with("two.yaml:24: "), "{}", done.stdout);
}

#[test]
fn one_file_is_sealed_for_several_clusters() {
    let folder = Folder::new();
    fs::copy(Path::new(TESTDATA).join("old.crt"), folder.path("other.pem")).unwrap();
    fs::copy(Path::new(TESTDATA).join("old.key"), folder.path("other.key")).unwrap();
    let both = ["--cert", "cert.pem", "--cert", "other.pem"];
    let opens = |file: &str| {
        ["new.key", "other.key"]
            .map(|key| folder.run(&["unseal", file, "--recovery-private-key", key], "", "").code == Some(0))
    };
    let done = folder.run(&[&both[..], &["-f", "secret.yaml", "-w", "all.yaml"]].concat(), "", "");
    assert_eq!((done.code, done.stderr.as_str()), (Some(0), ""));
    assert_eq!(opens("all.yaml"), [true, true]);
    assert_eq!(opens("sealed.yaml"), [true, false]);
    let told = folder.run(&["get", "all.yaml", "-o", "json"], "", "").stdout;
    assert!(told.contains("\"recipients\": [\n      \"SHA256:"), "{told}");

    let set = |certs: &[&str]| folder.run(&[&["set", "password", "all.yaml"], certs].concat(), "new", "");
    assert_eq!((set(&both).code, set(&both).stderr.as_str()), (Some(0), ""));
    assert_eq!(opens("all.yaml"), [true, true]);
    let done = set(&["--cert", "cert.pem"]);
    assert!(done.stderr.starts_with("warning: password: not sealed for SHA256:"), "{}", done.stderr);
    assert_eq!(opens("all.yaml"), [true, false]);
    let clear = "kind: Secret\nmetadata: {name: db, namespace: shop}\nstringData: {password: again}\n";
    assert_eq!(folder.run(&[&both[..], &["--merge-into", "all.yaml"]].concat(), clear, "").code, Some(0));
    assert_eq!(opens("all.yaml"), [true, true]);
    // An item that was not there before locks the others out as well.
    let clear = clear.replace("password", "fresh");
    for (other, left) in [("cert.pem", "SHA256:"), ("other.pem", "the first recipient")] {
        let fresh = |args: &[&str], stdin: &str, editor: &str| {
            fs::copy(folder.path("all.yaml"), folder.path("fresh.yaml")).unwrap();
            let done = folder.run(&[args, &["--cert", other]].concat(), stdin, editor);
            let told = format!("warning: fresh: not sealed for {left}");
            assert!(done.code == Some(0) && done.stderr.starts_with(&told), "{args:?}: {}", done.stderr);
            let verified = folder.run(&["verify", "fresh.yaml"], "", "");
            assert_eq!(verified.code, Some(1), "{args:?}");
            assert!(verified.stdout.contains("\"fresh\" is sealed for 1 and other items for 2"), "{}", verified.stdout);
        };
        fresh(&["set", "fresh", "fresh.yaml"], "new", "");
        fresh(&["edit", "fresh.yaml"], "", "sed -i 's/^stringData:.*/stringData:\\n  fresh: new/'");
        fresh(&["--merge-into", "fresh.yaml"], &clear, "");
    }
    for item in ["binary", "empty", "one", "password"] {
        assert_eq!(folder.run(&["unset", item, "all.yaml"], "", "").code, Some(0));
    }
    assert!(!folder.read("all.yaml").contains("recipients"));

    let done = folder.run(&[&["raw", "shop/db"], &both[..]].concat(), "x", "");
    assert_eq!(done.code, Some(1));
    assert!(done.stderr.contains("one value has one recipient"), "{}", done.stderr);
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_seal"), folder.path("kubeseal")).unwrap();
    let mut kubeseal = Command::new(folder.path("kubeseal"));
    kubeseal.args(both).args(["-f", "secret.yaml", "-w", "last.yaml"]);
    assert_eq!(folder.program(&mut kubeseal, "", "").code, Some(0));
    assert_eq!(opens("last.yaml"), [false, true], "kubeseal takes the last");
}

#[test]
fn the_manual_has_a_page_for_each_verb() {
    let folder = Folder::new();
    assert_eq!(folder.run(&["man", "pages"], "", "").code, Some(0));
    for verb in
        VERBS.into_iter().chain(["keys", "keys-list", "keys-rotate", "keys-retire", "sync", "sync-list", "sync-diff"])
    {
        assert!(folder.read(&format!("pages/seal-{verb}.1")).contains("Exit codes"), "{verb}");
    }
    assert!(folder.read("pages/seal.1").contains("encrypt") || folder.read("pages/seal.1").contains("Seals"));
    for shell in ["bash", "zsh", "fish", "powershell", "elvish", "kubectl"] {
        let done = folder.run(&["completion", shell], "", "");
        assert!(done.code == Some(0) && done.stdout.contains("verify"), "{shell}");
    }
}

/// They need a cluster: here it is shown that what the help says can be typed. `tests/sync_screens.rs` runs them.
#[test]
fn every_example_of_the_help_of_sync_can_be_typed() {
    let folder = Folder::new();
    let group = folder.run(&["sync", "--help"], "", "").stdout;
    let verbs: Vec<&str> =
        group.split("Commands:\n").nth(1).unwrap().lines().map_while(|line| line.split_whitespace().next()).collect();
    assert_eq!(verbs.len(), 14, "{verbs:?}");
    for verb in verbs {
        let help = folder.run(&["sync", verb, "--help"], "", "").stdout;
        let example = help.split("Example:\n").nth(1).unwrap().lines().next().unwrap().trim().to_owned();
        assert!(example.starts_with(&format!("seal sync {verb} ")) && help.contains("\nExit codes"), "{help}");
        let mut seal = Command::new("sh");
        seal.args(["-c", &example]).env("HOME", "/nonexistent").env("KUBECONFIG", "/dev/null");
        let done = folder.program(&mut seal, "", "");
        let expected = if verb == "render" {
            "open deploy/production: no such file"
        } else {
            "no configuration has been provided"
        };
        assert!(done.stderr.contains(expected), "{example}: {}", done.stderr);
    }
}
