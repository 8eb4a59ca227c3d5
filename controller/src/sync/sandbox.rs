//! Runs a program on what strangers wrote: with nothing of our environment, without a network, in its own process group,
//! and with ends to its time, its memory and its output. It must not know what the program is for.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process_group, prlimit};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    process::{Child, Command},
    sync::oneshot,
};

/// As much as is kept of what a program says about a failure.
const MAX_WORDS: u64 = 64 << 10;
/// The largest file that it may write.
const MAX_FILE: u64 = 16 << 20;

/// What to run.
#[derive(Clone, Debug)]
pub struct Job {
    /// The program's path.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Where it runs: its HOME, too.
    pub folder: PathBuf,
    /// What it finds in its environment, beside what keeps it in.
    pub variables: Vec<(&'static str, String)>,
    /// Its ends.
    pub limits: Limits,
}

/// Ends of what a program may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Until it is killed.
    pub time: Duration,
    /// Bytes of memory that it may map to write to. What it maps besides, such as its own text, is the kernel's to take.
    pub memory: u64,
    /// Bytes that it may write to stdout.
    pub output: u64,
}

/// Why a program gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// It could not be started.
    #[error("cannot start {program}: {why}", program = program.display())]
    Start {
        /// Its path.
        program: PathBuf,
        /// Why.
        why: String,
    },
    /// Its pipes broke.
    #[error("lost it: {0}")]
    Lost(#[from] std::io::Error),
    /// It took too long.
    #[error("took longer than {} s", .0.as_secs_f32())]
    Time(Duration),
    /// It wrote too much.
    #[error("wrote more than {0} bytes")]
    Output(u64),
    /// It said no; what it wrote to stderr.
    #[error("it failed")]
    Failed(String),
}

/// Runs it; what it wrote to stdout.
pub async fn run(job: Job) -> Result<Vec<u8>, SandboxError> {
    let Limits { time, output, .. } = job.limits;
    let (mut child, _group) = start(job).await?;
    let (stdout, mut stderr) = (child.stdout.take(), child.stderr.take());
    let work = async {
        let written = async {
            let written = drain(stdout, output).await?;
            if written.len() as u64 > output { Err(SandboxError::Output(output)) } else { Ok(written) }
        };
        let (written, said) = tokio::try_join!(written, async {
            let said = drain(stderr.as_mut(), MAX_WORDS).await?;
            // What is more than is shown is read, too: who writes to a pipe that is closed is ended by that.
            if let Some(pipe) = &mut stderr {
                tokio::io::copy(pipe, &mut tokio::io::sink()).await?;
            }
            Ok(said)
        })?;
        let status = child.wait().await?;
        if status.success() {
            return Ok(written);
        }
        let said = String::from_utf8_lossy(&said).into_owned();
        Err(SandboxError::Failed(if said.trim().is_empty() { format!("it ended with {status}") } else { said }))
    };
    tokio::time::timeout(time, work).await.unwrap_or(Err(SandboxError::Time(time)))
}

/// One byte more than allowed, so that it shows.
async fn drain(pipe: Option<impl AsyncRead + Unpin>, limit: u64) -> std::io::Result<Vec<u8>> {
    let mut read = Vec::new();
    if let Some(pipe) = pipe {
        pipe.take(limit + 1).read_to_end(&mut read).await?;
    }
    Ok(read)
}

/// Whatever is left of a program goes with it.
struct Group(Pid);

impl Drop for Group {
    fn drop(&mut self) {
        // There may be nobody left.
        let _ = kill_process_group(self.0, Signal::KILL);
    }
}

async fn start(job: Job) -> Result<(Child, Group), SandboxError> {
    let failed = {
        let program = job.program.clone();
        move |why: String| SandboxError::Start { program: program.clone(), why }
    };
    let runtime = tokio::runtime::Handle::current();
    let (tell, told) = oneshot::channel();
    // A filter holds for the thread and its children, and cannot be taken off: hence a thread for this alone.
    let thread = std::thread::Builder::new().name("sandbox".to_owned()).spawn(move || {
        let _runtime = runtime.enter();
        let started = confine().and_then(|()| command(&job).spawn().map_err(|error| error.to_string()));
        let started = started.and_then(|child| limit(&child, &job.limits).map(|group| (child, group)));
        // Nobody waits any more; the child is killed as it is dropped.
        let _ = tell.send(started);
    });
    thread.map_err(|error| failed(error.to_string()))?;
    told.await.unwrap_or_else(|_| Err("the thread that starts it ended".to_owned())).map_err(failed)
}

fn command(Job { program, args, folder, variables, .. }: &Job) -> Command {
    let mut command = Command::new(program);
    command
        .args(args)
        .current_dir(folder)
        .env_clear()
        .envs(environment(folder))
        .envs(variables.iter().cloned())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    command
}

/// A home of its own, and no way around: should a socket be had after all, nobody is there.
fn environment(folder: &Path) -> BTreeMap<&'static str, OsString> {
    let nobody = OsString::from("http://127.0.0.1:1");
    let home = folder.as_os_str().to_owned();
    [("HOME", home.clone()), ("TMPDIR", home), ("HTTP_PROXY", nobody.clone()), ("HTTPS_PROXY", nobody)].into()
}

/// No sockets, from this thread on. Whoever cannot promise that does not run the program.
fn confine() -> Result<(), String> {
    let refused = [libc::SYS_socket, libc::SYS_io_uring_setup].map(|call| (call, Vec::new()));
    let refuse = SeccompAction::Errno(libc::EACCES.unsigned_abs());
    let arch =
        std::env::consts::ARCH.try_into().map_err(|error| format!("cannot keep it from the network: {error}"))?;
    let filter = SeccompFilter::new(refused.into_iter().collect(), SeccompAction::Allow, refuse, arch);
    let program: BpfProgram =
        filter.and_then(TryInto::try_into).map_err(|error| format!("cannot keep it from the network: {error}"))?;
    seccompiler::apply_filter(&program).map_err(|error| format!("cannot keep it from the network: {error}"))
}

/// Its group, and limits that hold from now on: it has only just begun.
fn limit(child: &Child, limits: &Limits) -> Result<Group, String> {
    let id = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)).ok_or("it ended at once")?;
    let group = Group(id);
    for (resource, most) in [
        (Resource::Data, limits.memory),
        (Resource::Cpu, limits.time.as_secs() + 1),
        (Resource::Fsize, MAX_FILE),
        (Resource::Core, 0),
    ] {
        let limit = Rlimit { current: Some(most), maximum: Some(most) };
        match prlimit(Some(id), resource, limit) {
            // Ended already, which is as good.
            Ok(_) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => return Err(format!("cannot limit it: {error}")),
        }
    }
    Ok(group)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { time: Duration::from_secs(20), memory: 1 << 30, output: 1000 };

    async fn shell(script: &str, limits: Limits) -> Result<String, SandboxError> {
        let folder = tempfile::tempdir().unwrap();
        let args = ["-c", script].map(OsString::from).to_vec();
        let variables = vec![("OURS", "given".to_owned())];
        let job = Job { program: "/bin/sh".into(), args, folder: folder.path().to_owned(), variables, limits };
        run(job).await.map(|output| String::from_utf8(output).unwrap())
    }

    #[tokio::test]
    async fn nothing_of_ours_is_in_its_environment() {
        let seen = shell("/usr/bin/env; pwd", LIMITS).await.unwrap();
        let mut names: Vec<_> = seen.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
        // The shell adds these two itself.
        names.retain(|name| !["PWD", "_", "OLDPWD", "SHLVL"].contains(name));
        names.sort_unstable();
        assert_eq!(names, ["HOME", "HTTPS_PROXY", "HTTP_PROXY", "OURS", "TMPDIR"], "and nothing but what it is given");
        assert!(seen.contains(&format!("HOME={}", seen.lines().last().unwrap())), "{seen}");
    }

    #[tokio::test]
    async fn it_has_no_network() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let connect = format!("exec 3<>/dev/tcp/127.0.0.1/{port} && echo connected");
        let folder = tempfile::tempdir().unwrap();
        let args = ["-c", connect.as_str()].map(OsString::from).to_vec();
        let folder = folder.path().to_owned();
        let job = Job { program: "/bin/bash".into(), args, folder, variables: Vec::new(), limits: LIMITS };
        let Err(SandboxError::Failed(said)) = run(job).await else { panic!("it could connect") };
        assert!(said.contains("Permission denied"), "{said}");
        // We still can.
        std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    }

    #[tokio::test]
    async fn it_may_say_much() {
        let said = shell("head -c 300000 /dev/zero >&2 && echo done", LIMITS).await;
        assert_eq!(said.unwrap(), "done\n");
    }

    #[tokio::test]
    async fn its_time_output_and_memory_end() {
        let short = Limits { time: Duration::from_millis(300), ..LIMITS };
        assert!(matches!(shell("exec sleep 100", short).await, Err(SandboxError::Time(_))));
        assert!(matches!(shell("while :; do echo x; done", LIMITS).await, Err(SandboxError::Output(1000))));
        let small = Limits { memory: 64 << 20, ..LIMITS };
        // The limit is set an instant after the start: that it holds is waited for.
        let hungry = "while ulimit -d | grep -q unlimited; do :; done; x=x; while :; do x=$x$x; done";
        assert!(matches!(shell(hungry, small).await, Err(SandboxError::Failed(_))));
    }

    #[tokio::test]
    async fn its_children_end_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let (started, pipe) = (folder.path().join("started"), folder.path().join("pipe"));
        let script = format!("mkfifo {0}; (echo up > {1}; cat {0}) & wait", pipe.display(), started.display());
        let limits = Limits { time: Duration::from_secs(10), ..LIMITS };
        assert!(matches!(shell(&script, limits).await, Err(SandboxError::Time(_))));
        assert!(started.exists());
        // Opening to write succeeds only while somebody reads.
        let write = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::NONBLOCK;
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while rustix::fs::open(&pipe, write, rustix::fs::Mode::empty()).is_ok() {
            assert!(std::time::Instant::now() < deadline, "a grandchild still reads");
            tokio::task::yield_now().await;
        }
    }
}
