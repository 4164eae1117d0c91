//! Starts the processes of a training on this machine, watches them, and starts all again if one fails.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use vae_base::{counted, read_small_text};
use vae_torch::Store;

use super::placement::{GENERATION, own_address};
use super::{Args, GONE, RUN, UNTIL_ALL_ARE_HERE, host_error};
use crate::output::say;
use crate::{Done, signals};

/// Set for processes that go on with a run after a failure: its folder.
const RESUME: &str = "VAE_RESUME";

/// How often the processes are looked at.
const BEAT: Duration = Duration::from_millis(100);

/// How long after the first failure others may say why they failed, before they are killed.
const GRACE: Duration = Duration::from_secs(2);

/// How long a process may be stopped, by SIGSTOP or a debugger.
const STOPPED: Duration = Duration::from_secs(5);

/// The last lines of a process's messages that are kept.
const N_LINES: usize = 20;

/// A process that was started.
struct Started {
    rank: usize,
    child: Child,
    /// The last lines that it wrote on stderr; of the first process, which writes on this one's, none.
    said: Arc<Mutex<VecDeque<String>>>,
    reader: Option<JoinHandle<()>>,
    status: Option<ExitStatus>,
    stopped_since: Option<Instant>,
}

/// How the processes of one start ended.
enum Ended {
    Well(Done),
    Badly(Failure),
}

/// Why processes ended badly.
struct Failure {
    why: String,
    /// Whether the first process has said on stderr what its error was.
    is_said: bool,
}

impl From<String> for Failure {
    fn from(why: String) -> Self {
        let is_said = false;
        Self { why, is_said }
    }
}

/// The run that a process is to go on with, because the launcher has started it again.
pub(crate) fn run_to_resume() -> Option<PathBuf> {
    std::env::var_os(RESUME).map(PathBuf::from)
}

/// In a process that a launcher has started: ends it when the launcher is gone, which held the other end of standard input.
pub(crate) fn end_with_launcher() {
    if std::env::var_os(GENERATION).is_none() {
        return;
    }
    thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        signals::exit_at_once(1);
    });
}

/// Trains by several processes: this one starts them and waits.
pub(crate) fn run(args: &Args) -> Result<Done> {
    let n_local = args.processes.unwrap_or(1) as usize;
    let (n_machines, machine) = (args.machines as usize, args.machine as usize);
    ensure!(
        machine < n_machines,
        "--machine: found {machine}, expected a number below {n_machines}, the number of machines"
    );
    let (store, host, port) = match &args.address {
        None => {
            let store = Store::host(0, UNTIL_ALL_ARE_HERE).context("a place to meet")?;
            let port = store.port();
            (store, "127.0.0.1".to_owned(), port)
        }
        Some(address) => {
            let (host, port) = address
                .rsplit_once(':')
                .with_context(|| format!("--address: found {address}, expected HOST:PORT"))?;
            let port = port
                .parse::<u16>()
                .with_context(|| format!("--address: found the port {port:?}"))?;
            let store = match machine {
                0 => Store::host(port, UNTIL_ALL_ARE_HERE).map_err(|error| host_error(port, &error))?,
                _ => Store::join(host, port, UNTIL_ALL_ARE_HERE).map_err(|_| {
                    anyhow!(
                        "{address}: nobody is there after {} s; machine 0 should be started, too, and its port be open",
                        UNTIL_ALL_ARE_HERE.as_secs()
                    )
                })?,
            };
            own_address(host, port)?;
            (store, host.to_owned(), port)
        }
    };
    let stop = signals::stop_when_asked(" after this step")?;
    let mut launcher = Launcher {
        store,
        host,
        port,
        n_local,
        n_machines,
        machine,
        stop,
    };
    let mut generation = 0;
    loop {
        match launcher.start(generation)? {
            Ended::Well(done) => {
                launcher.leave();
                return Ok(done);
            }
            Ended::Badly(Failure { why, is_said }) if generation >= u64::from(args.restarts) => {
                launcher.leave();
                if is_said {
                    return Ok(Done::Badly);
                }
                bail!(
                    "{why}{}",
                    match generation {
                        0 => "; `vae train --resume` goes on from the newest checkpoint, and --restarts does so by itself"
                            .to_owned(),
                        n => format!(" ({} before)", counted(n as usize, "restart")),
                    }
                );
            }
            Ended::Badly(Failure { why, .. }) => {
                generation += 1;
                say!(
                    "{why}; starting all again, {generation} of at most {} restarts",
                    args.restarts
                );
            }
        }
    }
}

/// What all starts share.
struct Launcher {
    store: Store,
    host: String,
    port: u16,
    n_local: usize,
    n_machines: usize,
    machine: usize,
    stop: Arc<AtomicBool>,
}

impl Launcher {
    /// Starts the processes of this machine and waits for their end.
    fn start(&mut self, generation: u64) -> Result<Ended> {
        let run = self.run_so_far(generation)?;
        let ranks = self.machine * self.n_local..(self.machine + 1) * self.n_local;
        let mut started = Vec::new();
        for (local_rank, rank) in ranks.enumerate() {
            let process = self.spawn(rank, local_rank, generation, run.as_ref());
            match process {
                Ok(process) => started.push(process),
                Err(error) => {
                    end(&mut started);
                    return Err(error);
                }
            }
        }
        let ended = self.watch(&mut started, generation);
        end(&mut started);
        ended
    }

    /// The folder of the run that an earlier start has begun, if it had come as far.
    fn run_so_far(&self, generation: u64) -> Result<Option<PathBuf>> {
        if generation == 0 || !self.store.has(RUN).context(GONE)? {
            return Ok(None);
        }
        let run = self.store.get(RUN, UNTIL_ALL_ARE_HERE).context(GONE)?;
        Ok(Some(PathBuf::from(String::from_utf8(run)?)))
    }

    fn spawn(
        &self,
        rank: usize,
        local_rank: usize,
        generation: u64,
        run: Option<&PathBuf>,
    ) -> Result<Started> {
        let program = this_program()?;
        let is_first = rank == 0;
        let mut command = Command::new(program);
        command
            .arg0("vae")
            .args(std::env::args_os().skip(1))
            .env("RANK", rank.to_string())
            .env("WORLD_SIZE", (self.n_local * self.n_machines).to_string())
            .env("LOCAL_RANK", local_rank.to_string())
            .env("LOCAL_WORLD_SIZE", self.n_local.to_string())
            .env("MASTER_ADDR", &self.host)
            .env("MASTER_PORT", self.port.to_string())
            .env(GENERATION, generation.to_string())
            .env_remove(RESUME)
            .stdin(Stdio::piped())
            .stdout(if is_first {
                Stdio::inherit()
            } else {
                Stdio::null()
            })
            .stderr(if is_first {
                Stdio::inherit()
            } else {
                Stdio::piped()
            })
            // A terminal's Ctrl-C reaches this process alone, which passes it on once.
            .process_group(0);
        if let Some(run) = run {
            command.env(RESUME, run);
        }
        let mut child = command.spawn().context("another process of this program")?;
        let said = Arc::new(Mutex::new(VecDeque::new()));
        let reader = child.stderr.take().map(|stderr| {
            let said = Arc::clone(&said);
            thread::spawn(move || keep_last_lines(stderr, &said))
        });
        Ok(Started {
            rank,
            child,
            said,
            reader,
            status: None,
            stopped_since: None,
        })
    }

    fn watch(&self, started: &mut [Started], generation: u64) -> Result<Ended> {
        let elsewhere = format!("{generation}/failed");
        let mut first_failure: Option<Instant> = None;
        let mut was_asked = false;
        let mut next_look = Instant::now();
        loop {
            thread::sleep(BEAT);
            if !was_asked && self.stop.load(Ordering::Relaxed) {
                was_asked = true;
                for process in started.iter().filter(|process| process.status.is_none()) {
                    signals::ask_to_end(process.child.id());
                }
            }
            for process in started
                .iter_mut()
                .filter(|process| process.status.is_none())
            {
                process.status = process.child.try_wait().context("a process")?;
                if process.status.is_none() && process.is_stopped_for_long() {
                    let _ = process.child.kill();
                    let status = process.child.wait().context("a process")?;
                    process.status = Some(status);
                    let why = format!(
                        "rank {} was stopped for {} s",
                        process.rank,
                        STOPPED.as_secs()
                    );
                    self.tell_of_failure(&elsewhere, &why);
                    let why = format!("{why}; the other processes are ended");
                    return Ok(Ended::Badly(why.into()));
                }
            }
            if first_failure.is_none() && started.iter().any(Started::has_failed) {
                first_failure = Some(Instant::now());
            }
            let all_ended = started.iter().all(|process| process.status.is_some());
            match first_failure {
                Some(since) if all_ended || since.elapsed() > GRACE => {
                    let failure = cause(started);
                    self.tell_of_failure(&elsewhere, &failure.why);
                    return Ok(Ended::Badly(failure));
                }
                Some(_) => continue,
                None if all_ended => return Ok(Ended::Well(how_all_ended(started))),
                None => {}
            }
            if self.n_machines > 1 && next_look <= Instant::now() {
                next_look = Instant::now() + Duration::from_secs(1);
                let has_failed = self.store.has(&elsewhere);
                let has_failed =
                    has_failed.context("machine 0 is gone, where the processes meet")?;
                if has_failed {
                    let why = self
                        .store
                        .get(&elsewhere, UNTIL_ALL_ARE_HERE)
                        .context(GONE)?;
                    let why = String::from_utf8_lossy(&why).into_owned();
                    return Ok(Ended::Badly(format!("on another machine: {why}").into()));
                }
            }
        }
    }

    /// Lets the launchers of other machines know.
    fn tell_of_failure(&self, key: &str, why: &str) {
        if self.n_machines > 1 && !self.store.has(key).unwrap_or(true) {
            let _ = self.store.set(key, why.as_bytes());
        }
    }

    /// Machine 0, which hosts the store, waits a little until the other launchers have read it.
    fn leave(&self) {
        const KEY: &str = "launchers that are done";
        if self.n_machines == 1 {
            return;
        }
        let mut n_done = self.store.add(KEY, 1).unwrap_or(0);
        let until = Instant::now() + Duration::from_secs(10);
        while self.machine == 0 && n_done < self.n_machines as i64 && Instant::now() < until {
            thread::sleep(BEAT);
            n_done = self.store.add(KEY, 0).unwrap_or(i64::MAX);
        }
    }
}

impl Started {
    fn has_failed(&self) -> bool {
        let interrupted = i32::from(signals::INTERRUPTED);
        self.status
            .is_some_and(|status| !status.success() && status.code() != Some(interrupted))
    }

    /// The last line that it said.
    fn last_line(&self) -> Option<String> {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let errors = said.iter().rev();
        let mut errors = errors.filter(|line| line.starts_with("error:"));
        errors.next().or_else(|| said.back()).cloned()
    }

    /// Whether it ended because another was gone.
    fn only_follows(&self) -> bool {
        let code = self.status.and_then(|status| status.code());
        code == Some(i32::from(signals::ANOTHER_IS_GONE))
    }

    /// Linux says in what state a process is; elsewhere a stopped one is noticed by the others, which wait for it.
    fn is_stopped_for_long(&mut self) -> bool {
        let stat = read_small_text(
            Path::new(&format!("/proc/{}/stat", self.child.id())),
            1 << 12,
        );
        let state = stat.ok().and_then(|stat| {
            let (_, after) = stat.rsplit_once(") ")?;
            after.chars().next()
        });
        match state {
            Some('T' | 't') => {
                let since = *self.stopped_since.get_or_insert_with(Instant::now);
                since.elapsed() > STOPPED
            }
            _ => {
                self.stopped_since = None;
                false
            }
        }
    }
}

/// This program, also where its file was replaced meanwhile by a newer one.
fn this_program() -> Result<PathBuf> {
    let running = Path::new("/proc/self/exe");
    match running.exists() {
        true => Ok(running.to_owned()),
        false => std::env::current_exe().context("this program"),
    }
}

/// What the failure of all came from.
fn cause(started: &mut [Started]) -> Failure {
    for process in started.iter_mut() {
        if process.status.is_some()
            && let Some(reader) = process.reader.take()
        {
            let _ = reader.join();
        }
    }
    let failed = || started.iter().filter(|process| process.has_failed());
    let by_signal = failed().find(|process| {
        let status = process.status.as_ref();
        status.is_some_and(|status| status.signal().is_some())
    });
    let own = || failed().find(|process| !process.only_follows());
    let Some(process) = by_signal.or_else(own) else {
        return GONE.to_owned().into();
    };
    let ended = match process.status {
        Some(status) => match (status.signal(), status.code()) {
            (Some(signal), _) => format!("was killed by signal {signal}"),
            (None, Some(code)) => format!("failed with code {code}"),
            (None, None) => "failed".to_owned(),
        },
        None => "failed".to_owned(),
    };
    let said = process.last_line();
    let said = said.map_or_else(String::new, |line| format!(" ({line})"));
    let rank = process.rank;
    Failure {
        why: format!("rank {rank} {ended}{said}; the other processes are ended"),
        is_said: rank == 0 && process.status.is_some_and(|status| status.code().is_some()),
    }
}

/// How a training ended whose processes all ended well.
fn how_all_ended(started: &[Started]) -> Done {
    let interrupted = i32::from(signals::INTERRUPTED);
    let mut codes = started.iter().filter_map(|process| process.status?.code());
    match codes.any(|code| code == interrupted) {
        true => Done::Interrupted,
        false => Done::Fully,
    }
}

/// Kills what still runs.
fn end(started: &mut [Started]) {
    for process in started.iter_mut() {
        if process.status.is_none() {
            let _ = process.child.kill();
            let _ = process.child.wait();
        }
    }
}

fn keep_last_lines(stderr: impl Read, said: &Mutex<VecDeque<String>>) {
    for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line).trim().to_owned();
        if line.is_empty() {
            continue;
        }
        let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
        said.push_back(line);
        if said.len() > N_LINES {
            said.pop_front();
        }
    }
}
