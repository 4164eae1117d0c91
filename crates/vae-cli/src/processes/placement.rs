//! Which of several processes this one is, by the environment that whoever started it has set.

use std::net::UdpSocket;

use anyhow::{Context, Result, bail};

/// What this program's own launcher is called ([`Placement::by`]).
pub(crate) const NAME: &str = "vae";

/// Set by the launcher of this program for the processes that it starts: how often all were started before.
pub(super) const GENERATION: &str = "VAE_GENERATION";

/// The names of variables by which a launcher says rank, number of processes, rank on this machine and number of processes on
/// this machine.
struct Launcher {
    name: &'static str,
    rank: &'static str,
    size: &'static str,
    local_rank: &'static str,
    local_size: &'static str,
    /// How often all were started before.
    generation: Option<&'static str>,
}

const LAUNCHERS: [Launcher; 4] = [
    Launcher {
        name: "torchrun",
        rank: "RANK",
        size: "WORLD_SIZE",
        local_rank: "LOCAL_RANK",
        local_size: "LOCAL_WORLD_SIZE",
        generation: Some("TORCHELASTIC_RESTART_COUNT"),
    },
    Launcher {
        name: "SLURM",
        rank: "SLURM_PROCID",
        size: "SLURM_STEP_NUM_TASKS",
        local_rank: "SLURM_LOCALID",
        local_size: "SLURM_STEP_TASKS_PER_NODE",
        generation: Some("SLURM_RESTART_COUNT"),
    },
    Launcher {
        name: "Open MPI",
        rank: "OMPI_COMM_WORLD_RANK",
        size: "OMPI_COMM_WORLD_SIZE",
        local_rank: "OMPI_COMM_WORLD_LOCAL_RANK",
        local_size: "OMPI_COMM_WORLD_LOCAL_SIZE",
        generation: None,
    },
    Launcher {
        name: "MPI",
        rank: "PMI_RANK",
        size: "PMI_SIZE",
        local_rank: "MPI_LOCALRANKID",
        local_size: "MPI_LOCALNRANKS",
        generation: None,
    },
];

/// One of several processes, and where they meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Placement {
    /// Who started them.
    pub(crate) by: &'static str,
    pub(crate) rank: usize,
    pub(crate) size: usize,
    pub(crate) local_rank: usize,
    pub(crate) local_size: usize,
    pub(crate) host: String,
    pub(crate) port: u16,
    /// Whether the store is this process's to host.
    pub(crate) hosts_store: bool,
    /// How often all were started before.
    pub(crate) generation: u64,
}

impl Placement {
    /// By the environment; none where this process is alone.
    pub(crate) fn of_environment() -> Result<Option<Self>> {
        Self::of(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    fn of(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Self>> {
        let number = |name: &str| -> Result<Option<usize>> {
            let Some(value) = variable(name) else {
                return Ok(None);
            };
            let number = value.parse();
            let number =
                number.with_context(|| format!("{name}: found {value:?}, expected a number"));
            number.map(Some)
        };
        for launcher in &LAUNCHERS {
            let (Some(rank), Some(size)) = (number(launcher.rank)?, number(launcher.size)?) else {
                continue;
            };
            if rank >= size {
                bail!(
                    "{}: found {rank}, expected a number below {size}",
                    launcher.rank
                );
            }
            if size == 1 {
                return Ok(None);
            }
            let is_ours = variable(GENERATION).is_some();
            let host = match variable("MASTER_ADDR") {
                Some(host) => host,
                None => variable("SLURM_STEP_NODELIST")
                    .map(|nodes| first_node(&nodes))
                    .with_context(|| {
                        format!(
                            "{} started {size} processes, but MASTER_ADDR does not say where they meet: the name of \
                             the machine of rank 0",
                            launcher.name
                        )
                    })?,
            };
            let port = match variable("MASTER_PORT") {
                Some(port) => port
                    .parse()
                    .with_context(|| format!("MASTER_PORT: found {port:?}, expected a port"))?,
                None => 29_500,
            };
            let generation = match (variable(GENERATION), launcher.generation) {
                (Some(_), _) => number(GENERATION)?,
                (None, Some(name)) => number(name)?,
                (None, None) => None,
            };
            let node = number("SLURM_NODEID")?.unwrap_or(0);
            let local_size = match variable(launcher.local_size) {
                Some(list) => tasks_of_node(&list, node).with_context(|| {
                    format!(
                        "{}: found {list:?}, expected the number of processes on this machine",
                        launcher.local_size
                    )
                })?,
                None => 1,
            };
            let agent_hosts =
                variable("TORCHELASTIC_USE_AGENT_STORE").is_some_and(|value| value == "True");
            return Ok(Some(Self {
                by: if is_ours { NAME } else { launcher.name },
                rank,
                size,
                local_rank: number(launcher.local_rank)?.unwrap_or(0),
                local_size,
                host,
                port,
                hosts_store: rank == 0 && !is_ours && !agent_hosts,
                generation: generation.unwrap_or(0) as u64,
            }));
        }
        Ok(None)
    }

    /// The address of this machine on the way to where the processes meet.
    pub(super) fn own_address(&self) -> Result<String> {
        own_address(&self.host, self.port)
    }
}

/// The number of tasks of a machine in SLURM's list of them: 4(x2),3 are two machines of four tasks and one of three. Other
/// launchers write one number.
fn tasks_of_node(list: &str, node: usize) -> Option<usize> {
    let mut first = 0;
    for part in list.split(',') {
        let (tasks, nodes) = match part.split_once("(x") {
            Some((tasks, nodes)) => (tasks, nodes.strip_suffix(')')?.parse().ok()?),
            None => (part, 1),
        };
        first += nodes;
        if node < first {
            return tasks.parse().ok();
        }
    }
    None
}

/// The first machine of SLURM's list of them, where rank 0 is: node03 of `node[03-05,9]-ib,other`.
fn first_node(list: &str) -> String {
    let Some((name, rest)) = list.split_once('[') else {
        return list.split(',').next().unwrap_or_default().to_owned();
    };
    if let Some((first, _)) = name.split_once(',') {
        return first.to_owned();
    }
    let (numbers, rest) = rest.split_once(']').unwrap_or((rest, ""));
    let number = numbers.split(['-', ',']).next().unwrap_or_default();
    format!("{name}{number}{}", first_node(rest))
}

/// The address by which this machine reaches another, and is reached by it.
pub(super) fn own_address(host: &str, port: u16) -> Result<String> {
    let at = || format!("{host}: no way leads there");
    // Nothing is sent: a datagram's socket is bound to the interface of the route.
    let any = ["[::]:0", "0.0.0.0:0"];
    let mut last = None;
    for local in any.iter().rev() {
        let bound = UdpSocket::bind(local).and_then(|socket| {
            socket.connect((host, port))?;
            socket.local_addr()
        });
        match bound {
            Ok(address) => return Ok(address.ip().to_string()),
            Err(error) => last = Some(error),
        }
    }
    match last {
        Some(error) => Err(error).with_context(at),
        None => bail!(at()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn of(variables: &[(&str, &str)]) -> Result<Option<Placement>> {
        let variables: BTreeMap<_, _> = variables.iter().copied().collect();
        Placement::of(|name| variables.get(name).map(|&value| value.to_owned()))
    }

    #[test]
    fn the_launchers_of_clusters_are_understood() {
        assert_eq!(of(&[]).unwrap(), None);
        assert_eq!(of(&[("RANK", "0"), ("WORLD_SIZE", "1")]).unwrap(), None);
        let torchrun = [
            ("RANK", "3"),
            ("WORLD_SIZE", "4"),
            ("LOCAL_RANK", "1"),
            ("LOCAL_WORLD_SIZE", "2"),
            ("MASTER_ADDR", "node1"),
            ("MASTER_PORT", "1234"),
            ("TORCHELASTIC_USE_AGENT_STORE", "True"),
            ("TORCHELASTIC_RESTART_COUNT", "2"),
        ];
        let found = of(&torchrun).unwrap().unwrap();
        assert_eq!((found.by, found.rank, found.size), ("torchrun", 3, 4));
        assert_eq!((found.local_rank, found.local_size), (1, 2));
        assert_eq!(
            (&*found.host, found.port, found.generation),
            ("node1", 1234, 2)
        );
        assert!(!found.hosts_store);
        let slurm = [
            ("SLURM_PROCID", "0"),
            ("SLURM_STEP_NUM_TASKS", "8"),
            ("SLURM_LOCALID", "0"),
            ("SLURM_STEP_TASKS_PER_NODE", "4(x2)"),
            ("SLURM_STEP_NODELIST", "rack1-[07-08]"),
        ];
        let found = of(&slurm).unwrap().unwrap();
        assert_eq!(
            (found.by, &*found.host, found.port),
            ("SLURM", "rack1-07", 29_500)
        );
        assert_eq!(found.local_size, 4);
        assert!(found.hosts_store, "nobody else does");
        let mpi = [("OMPI_COMM_WORLD_RANK", "1"), ("OMPI_COMM_WORLD_SIZE", "2")];
        let error = of(&mpi).unwrap_err().to_string();
        assert!(
            error.contains("Open MPI") && error.contains("MASTER_ADDR"),
            "{error}"
        );
        for (wrong, part) in [
            ([("RANK", "x"), ("WORLD_SIZE", "2")], "RANK"),
            ([("RANK", "2"), ("WORLD_SIZE", "2")], "below 2"),
        ] {
            let error = of(&wrong).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn slurm_s_lists_are_read() {
        for (list, node, tasks) in [
            ("4(x2),3", 1, Some(4)),
            ("4(x2),3", 2, Some(3)),
            ("2,1", 1, Some(1)),
            ("2", 0, Some(2)),
            ("2", 1, None),
            ("2(x", 0, None),
        ] {
            assert_eq!(tasks_of_node(list, node), tasks, "{list} {node}");
        }
        for (list, first) in [
            ("node1", "node1"),
            ("node1,node2", "node1"),
            ("node[03-05,9]-ib,other", "node03-ib"),
            ("login,node[1-2]", "login"),
            ("rack[2,4]n[7-8]", "rack2n7"),
        ] {
            assert_eq!(first_node(list), first);
        }
    }

    #[test]
    fn the_way_to_this_machine_is_its_loopback() {
        assert_eq!(own_address("127.0.0.1", 9).unwrap(), "127.0.0.1");
    }
}
