//! Training by several processes: which of them this one is, where they meet, and what they agree on before the first step.

pub(crate) mod launcher;
mod placement;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use tch::{Device, Tensor};
use tempfile::TempDir;
use vae_base::{counted, read_small, write_whole};
use vae_data::{Dataset, Splits};
use vae_run::{OpenCheckpoint, RunConfig};
use vae_torch::{Group, Network, Store};

use crate::threads;

pub(crate) use placement::{NAME as LAUNCHER, Placement};

/// How long a process waits for another that makes a pack of photos or reads a large data set.
const WHILE_DATA_IS_READ: Duration = Duration::from_secs(24 * 3600);

/// How long a process waits for the others to come.
const UNTIL_ALL_ARE_HERE: Duration = Duration::from_secs(300);

/// The store's key of the folder of the run.
const RUN: &str = "run";

/// Bytes of the largest file of a checkpoint that is sent to other processes.
const LARGEST_FILE: u64 = 1 << 38;

/// What an error says that is due to another process.
pub(crate) const GONE: &str = "another process is gone or does not answer";

/// How tensors of GPUs get from process to process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Collectives {
    Gloo,
    Nccl,
}

/// The options of a training by several processes.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Train with N processes on this machine: on the CPU they share its cores, of GPUs each has its own. The batch stays as large,
    /// and the results are those of one process up to rounding
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096), help_heading = "Several processes")]
    pub(crate) processes: Option<u32>,

    /// If a process fails, start all again from the newest checkpoint, at most K times
    #[arg(
        long,
        value_name = "K",
        default_value_t = 0,
        help_heading = "Several processes"
    )]
    pub(crate) restarts: u32,

    /// How many machines take part; `vae launch` prints the line for each
    #[arg(long, value_name = "M", default_value_t = 1, requires = "address",
          value_parser = clap::value_parser!(u32).range(1..=4096), help_heading = "Several processes")]
    pub(crate) machines: u32,

    /// The number of this machine, from 0
    #[arg(
        long,
        value_name = "I",
        default_value_t = 0,
        help_heading = "Several processes"
    )]
    pub(crate) machine: u32,

    /// Where the machines meet: the name or address of machine 0 and a free port of it
    #[arg(long, value_name = "HOST:PORT", help_heading = "Several processes")]
    pub(crate) address: Option<String>,

    /// The network interface by which the machines reach each other, such as eth0 [default: the one that leads to machine 0]
    #[arg(long, value_name = "NAME", help_heading = "Several processes")]
    pub(crate) interface: Option<String>,

    /// How tensors of GPUs get from process to process: gloo, over the CPU; or nccl, directly, with the library that `cargo xtask nccl` makes
    #[arg(long, value_enum, value_name = "HOW", default_value_t = Collectives::Gloo, help_heading = "Several processes")]
    pub(crate) collectives: Collectives,

    /// How long a process waits for another that does not answer
    #[arg(long, value_name = "SECONDS", default_value_t = 1800,
          value_parser = clap::value_parser!(u64).range(1..), help_heading = "Several processes")]
    pub(crate) timeout: u64,
}

impl Args {
    /// Processes of this machine alone.
    pub(crate) fn local(n_processes: Option<u32>) -> Self {
        Self {
            processes: n_processes,
            restarts: 0,
            machines: 1,
            machine: 0,
            address: None,
            interface: None,
            collectives: Collectives::Gloo,
            timeout: 1800,
        }
    }
}

/// This process among several that train together.
#[derive(Debug)]
pub(crate) struct Processes {
    placement: Placement,
    store: Store,
    network: Network,
    timeout: Duration,
    collectives: Collectives,
    /// How long the others are waited for at the start.
    patience: Duration,
}

/// What has to be the same in all processes.
#[derive(Debug, Serialize, Deserialize)]
struct Facts {
    version: String,
    device: String,
    threads: i32,
    config: toml::Table,
    /// Number of items and fingerprint of each split.
    data: BTreeMap<String, (usize, u32)>,
}

impl Processes {
    /// Goes to where the processes meet.
    pub(crate) fn connect(placement: Placement, args: &Args) -> Result<Self> {
        let Placement { host, port, .. } = &placement;
        let at = format!("{host}:{port}");
        let timeout = Duration::from_secs(args.timeout);
        let patience = timeout.min(UNTIL_ALL_ARE_HERE);
        let store = match placement.hosts_store {
            true => {
                Store::host(*port, UNTIL_ALL_ARE_HERE).map_err(|error| host_error(*port, &error))?
            }
            false => Store::join(host, *port, patience).map_err(|_| {
                anyhow::anyhow!("{at}: nobody is there, where the processes should meet")
            })?,
        };
        let network = match &args.interface {
            Some(name) => Network::Interface(name.clone()),
            None => Network::Address(placement.own_address()?),
        };
        Ok(Self {
            placement,
            store,
            network,
            timeout,
            collectives: args.collectives,
            patience,
        })
    }

    /// Whether this is the process that writes.
    pub(crate) fn is_first(&self) -> bool {
        self.placement.rank == 0
    }

    pub(crate) fn placement(&self) -> &Placement {
        &self.placement
    }

    fn key(&self, name: &str) -> String {
        format!("{}/{name}", self.placement.generation)
    }

    /// Does work that makes files which later ones find: the first process of all, then the first of each machine, then the
    /// others.
    pub(crate) fn in_turns<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let Placement {
            rank, local_rank, ..
        } = self.placement;
        let [first, here] = [
            self.key("data of the first"),
            self.key(&format!("data of the machine of {}", rank - local_rank)),
        ];
        let wait = |key: &str| self.store.get(key, WHILE_DATA_IS_READ).context(GONE);
        match (rank, local_rank) {
            (0, _) => {}
            (_, 0) => drop(wait(&first)?),
            _ => drop(wait(&here)?),
        }
        let done = work()?;
        if rank == 0 {
            self.store.set(&first, b"done").context(GONE)?;
        }
        if local_rank == 0 {
            self.store.set(&here, b"done").context(GONE)?;
        }
        Ok(done)
    }

    /// Waits until all processes are here, which compute on such a device.
    pub(crate) fn join(&self, device: Device) -> Result<Arc<Group>> {
        let Placement { rank, size, .. } = self.placement;
        let here = |rank: usize| self.key(&format!("here/{rank}"));
        self.store.set(&here(rank), b"here").context(GONE)?;
        let missing = || {
            let is_missing = |&rank: &usize| !self.store.has(&here(rank)).unwrap_or(false);
            (0..size).filter(is_missing).collect::<Vec<usize>>()
        };
        // Others may be reading the data still.
        let begun = Instant::now();
        while let Some(&next) = missing().first() {
            let left = self.patience.saturating_sub(begun.elapsed());
            if left.is_zero() || self.store.get(&here(next), left).is_err() {
                break;
            }
        }
        let missing = missing();
        if !missing.is_empty() {
            let ranks: Vec<String> = missing.iter().map(ToString::to_string).collect();
            bail!(
                "of {size} processes {} did not come within {} s: rank {}",
                missing.len(),
                self.patience.as_secs(),
                ranks.join(", ")
            );
        }
        let name = self.key("training");
        let group = Group::join(&self.store, &name, rank, size, self.timeout, &self.network);
        let group = group.context(GONE)?;
        if self.collectives == Collectives::Nccl {
            ensure!(
                device.is_cuda(),
                "--collectives nccl: this process has no GPU"
            );
            let library = "libvae_nccl.so";
            group
                .use_nccl(&self.store, &name, library, self.timeout)
                .context("--collectives nccl (`cargo xtask nccl` makes what it needs)")?;
        }
        Ok(Arc::new(group))
    }

    /// Fails if a process has another version, config or data than the first one.
    pub(crate) fn compare(
        &self,
        group: &Group,
        config: &RunConfig,
        splits: &Splits,
        device: Device,
    ) -> Result<()> {
        let mut data = BTreeMap::new();
        let validation = splits.validation.as_ref();
        for (name, split) in [
            ("training", Some(&splits.train)),
            ("validation", validation),
        ] {
            let fingerprint = split.map(Dataset::fingerprint).transpose()?;
            let n = split.map_or(0, Dataset::len);
            data.insert(name.to_owned(), (n, fingerprint.unwrap_or(0)));
        }
        let facts = Facts {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            device: if device.is_cuda() { "cuda" } else { "cpu" }.to_owned(),
            threads: tch::get_num_threads(),
            config: toml::Table::try_from(config)?,
            data,
        };
        let all = group
            .gather_bytes(&serde_json::to_vec(&facts)?)
            .context(GONE)?;
        let read = |bytes: &Vec<u8>| serde_json::from_slice::<Facts>(bytes);
        let first = read(&all[0]).context("what rank 0 says of itself")?;
        for (rank, bytes) in all.iter().enumerate() {
            let other = read(bytes);
            let other = other.with_context(|| format!("rank {rank} has another version of vae"))?;
            if let Some(difference) = difference(&first, &other) {
                bail!("rank {rank} is not as rank 0: {difference}");
            }
        }
        Ok(())
    }

    /// Bytes that the first process has, in all of them.
    fn told(&self, group: &Group, bytes: &[u8]) -> Result<Vec<u8>> {
        let own = if self.is_first() { bytes } else { &[] };
        let length = Tensor::from_slice(&[own.len() as i64]);
        group.broadcast(&length, 0).context(GONE)?;
        let n = length.int64_value(&[0]) as usize;
        let mut copy = own.to_vec();
        copy.resize(n, 0);
        let copy = Tensor::from_slice(&copy);
        group.broadcast(&copy, 0).context(GONE)?;
        Ok(Vec::<u8>::try_from(copy)?)
    }

    /// The checkpoint that the first process goes on from, if it does; in the others a copy, which is kept as long as the folder:
    /// they may not see the run's.
    pub(crate) fn share_checkpoint(
        &self,
        group: &Group,
        own: Option<&OpenCheckpoint>,
    ) -> Result<Option<(TempDir, OpenCheckpoint)>> {
        let mut names = Vec::new();
        if let Some(checkpoint) = own {
            for entry in fs::read_dir(&checkpoint.folder)? {
                names.push(entry?.file_name().to_string_lossy().into_owned());
            }
        }
        let names: Vec<String> =
            serde_json::from_slice(&self.told(group, &serde_json::to_vec(&names)?)?)?;
        if names.is_empty() {
            return Ok(None);
        }
        let folder = tempfile::tempdir().context("a folder for a copy of the checkpoint")?;
        for name in &names {
            let bytes = match own {
                Some(checkpoint) => {
                    let file = checkpoint.folder.join(name);
                    read_small(&file, LARGEST_FILE).with_context(|| file.display().to_string())?
                }
                None => Vec::new(),
            };
            let bytes = self.told(group, &bytes)?;
            if own.is_none() {
                let file = folder.path().join(name);
                write_whole(&file, &bytes).with_context(|| file.display().to_string())?;
            }
        }
        match own {
            Some(_) => Ok(None),
            None => {
                let copy = OpenCheckpoint::copy_in(folder.path())?;
                Ok(Some((folder, copy)))
            }
        }
    }

    /// The config that the first process trains by, where the others have none of their own.
    pub(crate) fn share_config(&self, own: Option<&RunConfig>) -> Result<RunConfig> {
        let key = self.key("config");
        if let (true, Some(config)) = (self.is_first(), own) {
            self.store
                .set(&key, toml::to_string(config)?.as_bytes())
                .context(GONE)?;
        }
        let bytes = self.store.get(&key, UNTIL_ALL_ARE_HERE).context(GONE)?;
        toml::from_str(&String::from_utf8(bytes)?).context("the config of rank 0")
    }

    /// Tells the launcher which run to go on with after a failure.
    pub(crate) fn note_run(&self, run: &Path) -> Result<()> {
        let run = fs::canonicalize(run).unwrap_or_else(|_| run.to_owned());
        let text = run.to_string_lossy();
        self.store.set(RUN, text.as_bytes()).context(GONE)
    }
}

/// The error of a store that cannot be hosted.
fn host_error(port: u16, error: &tch::TchError) -> anyhow::Error {
    let problem = error.to_string();
    match problem.contains("in use") || problem.contains("EADDRINUSE") {
        true => anyhow::anyhow!("port {port} is taken by another program; another one would do"),
        false => anyhow::anyhow!(
            "port {port}: the processes cannot meet there: {}",
            line_of(&problem)
        ),
    }
}

/// The first line of libtorch's message.
fn line_of(message: &str) -> String {
    message.lines().next().unwrap_or_default().to_owned()
}

/// The first difference of a process from the first one.
fn difference(first: &Facts, other: &Facts) -> Option<String> {
    let of = |what: &str, first: &str, other: &str| {
        (first != other).then(|| format!("{what} {other} instead of {first}"))
    };
    of("version", &first.version, &other.version)
        .or_else(|| of("device", &first.device, &other.device))
        .or_else(|| {
            of(
                "threads",
                &first.threads.to_string(),
                &other.threads.to_string(),
            )
        })
        .or_else(|| different_key("", &first.config, &other.config))
        .or_else(|| {
            let mut splits = first.data.iter();
            splits.find_map(|(name, &(n, fingerprint))| {
                let &(n_other, other) = other.data.get(name)?;
                if n != n_other {
                    return Some(format!("{} {name} items instead of {n}", n_other));
                }
                (fingerprint != other).then(|| format!("other {name} items, as many as rank 0"))
            })
        })
}

/// The first key of a config that differs. Where the data lies may differ between machines; the data is compared itself.
fn different_key(path: &str, first: &toml::Table, other: &toml::Table) -> Option<String> {
    const PLACES: [&str; 4] = ["path", "folder", "file", "table"];
    let keys: std::collections::BTreeSet<&String> = first.keys().chain(other.keys()).collect();
    keys.into_iter().find_map(|key| {
        let whole = format!("{path}{key}");
        if whole.starts_with("dataset.") && PLACES.contains(&key.as_str()) {
            return None;
        }
        match (first.get(key), other.get(key)) {
            (Some(toml::Value::Table(a)), Some(toml::Value::Table(b))) => {
                different_key(&format!("{whole}."), a, b)
            }
            (a, b) if a == b => None,
            (a, b) => {
                let text = |value: Option<&toml::Value>| {
                    value.map_or_else(|| "nothing".to_owned(), ToString::to_string)
                };
                Some(format!("{whole} = {} instead of {}", text(b), text(a)))
            }
        }
    })
}

/// Sets the number of threads of a process that shares the cores of its machine with others, unless `OMP_NUM_THREADS` does.
pub(crate) fn choose_threads(placement: &Placement) {
    if std::env::var_os("OMP_NUM_THREADS").is_none_or(|value| value.is_empty()) {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        threads::set((cores / placement.local_size.max(1)).max(1) as i32);
    }
}

/// Refuses what several processes cannot do.
pub(crate) fn check(n_processes: usize, config: &RunConfig) -> Result<()> {
    let batch = config.training.batch_size;
    ensure!(
        n_processes <= batch,
        "{n_processes} processes for a batch of {}: some of them would have nothing to do (training.batch_size)",
        counted(batch, "item"),
    );
    Ok(())
}

/// Whether an error is said to be another process's.
pub(crate) fn is_of_another(error: &anyhow::Error) -> bool {
    format!("{error:#}").contains(GONE)
}

/// An error, which is said to be another process's where it is.
pub(crate) fn explained(error: anyhow::Error) -> anyhow::Error {
    const OF_GROUPS: [&str; 5] = [
        "gloo",
        "c10d",
        "TCPStore",
        "TCPClient",
        "Connection closed by peer",
    ];
    let said = format!("{error:#}");
    let is_of_group = OF_GROUPS.iter().any(|part| said.contains(part));
    match is_of_group && !is_of_another(&error) {
        true => error.context(GONE),
        false => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(config: &str) -> Facts {
        Facts {
            version: "1".to_owned(),
            device: "cpu".to_owned(),
            threads: 1,
            config: toml::from_str(config).expect("TOML"),
            data: BTreeMap::from([("training".to_owned(), (10, 7))]),
        }
    }

    #[test]
    fn what_differs_between_processes_is_named_and_the_place_of_the_data_may() {
        let text = "seed = 1\n[dataset.idx]\nfolder = 'a'\n[training]\nepochs = 3\n";
        let first = facts(text);
        let other = |from: &str, to: &str| difference(&first, &facts(&text.replace(from, to)));
        assert_eq!(other("'a'", "'b'"), None);
        let found = other("epochs = 3", "epochs = 4").expect("a difference");
        assert_eq!(found, "training.epochs = 4 instead of 3");
        let found = other("seed = 1", "").expect("a difference");
        assert_eq!(found, "seed = nothing instead of 1");
        let mut data = facts(text);
        data.data.insert("training".to_owned(), (11, 7));
        assert_eq!(
            difference(&first, &data).as_deref(),
            Some("11 training items instead of 10")
        );
        data.data.insert("training".to_owned(), (10, 8));
        let found = difference(&first, &data).expect("a difference");
        assert!(found.starts_with("other training items"), "{found}");
        let version = Facts {
            version: "2".to_owned(),
            ..facts(text)
        };
        assert_eq!(
            difference(&first, &version).as_deref(),
            Some("version 2 instead of 1")
        );
    }
}
