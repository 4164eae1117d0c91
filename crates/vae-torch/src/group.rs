//! `group.cpp`: several processes that compute together, on libtorch's c10d with Gloo.

use std::ffi::{CString, c_char, c_int, c_void};
use std::ptr::{self, NonNull};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tch::{Kind, TchError, Tensor};
use torch_sys::C_tensor;

use crate::call::taken;

unsafe extern "C" {
    fn vae_store_new(
        host: *const c_char,
        port: u16,
        hosts: bool,
        timeout_ms: i64,
        store: *mut *mut c_void,
        bound: *mut u16,
    ) -> *mut c_char;
    fn vae_store_delete(store: *mut c_void);
    fn vae_store_set(
        store: *const c_void,
        key: *const c_char,
        value: *const u8,
        n: usize,
    ) -> *mut c_char;
    fn vae_store_get(
        store: *const c_void,
        key: *const c_char,
        timeout_ms: i64,
        value: *mut *mut u8,
        n: *mut usize,
    ) -> *mut c_char;
    fn vae_store_has(store: *const c_void, key: *const c_char, has: *mut bool) -> *mut c_char;
    fn vae_store_add(
        store: *const c_void,
        key: *const c_char,
        amount: i64,
        sum: *mut i64,
    ) -> *mut c_char;
    fn vae_group_new(
        store: *const c_void,
        prefix: *const c_char,
        rank: c_int,
        size: c_int,
        timeout_ms: i64,
        interface: *const c_char,
        address: *const c_char,
        group: *mut *mut c_void,
    ) -> *mut c_char;
    fn vae_group_use_nccl(
        group: *const c_void,
        store: *const c_void,
        prefix: *const c_char,
        library: *const c_char,
        timeout_ms: i64,
    ) -> *mut c_char;
    fn vae_group_delete(group: *mut c_void);
    fn vae_group_all_reduce(
        group: *const c_void,
        tensor: *const C_tensor,
        operation: c_int,
    ) -> *mut c_char;
    fn vae_group_sum(
        group: *const c_void,
        input: *const C_tensor,
        output: *mut *mut C_tensor,
    ) -> *mut c_char;
    fn vae_group_rows(
        group: *const c_void,
        own: *const C_tensor,
        counts: *const i64,
        output: *mut *mut C_tensor,
    ) -> *mut c_char;
    fn vae_group_batch_norm(
        group: *const c_void,
        input: *const C_tensor,
        weight: *const C_tensor,
        bias: *const C_tensor,
        n: f64,
        epsilon: f64,
        counts: bool,
        output: *mut *mut C_tensor,
        mean: *mut *mut C_tensor,
        variance: *mut *mut C_tensor,
    ) -> *mut c_char;
    fn vae_group_shared(
        group: *const c_void,
        input: *const C_tensor,
        output: *mut *mut C_tensor,
    ) -> *mut c_char;
    fn vae_group_broadcast(
        group: *const c_void,
        tensor: *const C_tensor,
        root: c_int,
    ) -> *mut c_char;
    fn vae_group_all_gather(
        group: *const c_void,
        output: *const C_tensor,
        input: *const C_tensor,
    ) -> *mut c_char;
    fn vae_group_barrier(group: *const c_void) -> *mut c_char;
    fn vae_group_nanoseconds(group: *const c_void) -> i64;
}

/// Keys and values that processes share over TCP, at the one that hosts them: how a group's processes find each other.
#[derive(Debug)]
pub struct Store {
    pointer: NonNull<c_void>,
    port: u16,
}

// SAFETY: c10d's TCPStore locks a mutex in every call.
unsafe impl Send for Store {}
// SAFETY: as above.
unsafe impl Sync for Store {}

impl Store {
    /// Hosts a store at this port, or with 0 at one that is free. It ends with this value.
    ///
    /// # Errors
    /// The port is taken.
    pub fn host(port: u16, timeout: Duration) -> Result<Self, TchError> {
        Self::new("localhost", port, true, timeout)
    }

    /// Joins the store that another process hosts, which is waited for.
    ///
    /// # Errors
    /// Nobody answers within the timeout; a host that is not known.
    pub fn join(host: &str, port: u16, timeout: Duration) -> Result<Self, TchError> {
        Self::new(host, port, false, timeout)
    }

    fn new(host: &str, port: u16, hosts: bool, timeout: Duration) -> Result<Self, TchError> {
        let (mut store, mut bound) = (ptr::null_mut(), 0);
        let host = c_string(host)?;
        // SAFETY: the string outlives the call; the results are written before it returns without a message.
        unsafe {
            let timeout = milliseconds(timeout);
            let message =
                vae_store_new(host.as_ptr(), port, hosts, timeout, &mut store, &mut bound);
            taken(message)?;
        }
        let pointer = NonNull::new(store).expect("a call without a message made a store");
        Ok(Self {
            pointer,
            port: bound,
        })
    }

    /// The port at which it is hosted.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Sets a key.
    ///
    /// # Errors
    /// The host is gone.
    pub fn set(&self, key: &str, value: &[u8]) -> Result<(), TchError> {
        let key = c_string(key)?;
        // SAFETY: the store lives, and key and value outlive the call.
        unsafe {
            let (store, n) = (self.pointer.as_ptr(), value.len());
            taken(vae_store_set(store, key.as_ptr(), value.as_ptr(), n))
        }
    }

    /// The value of a key, which is waited for.
    ///
    /// # Errors
    /// Nobody sets it within the timeout; the host is gone.
    pub fn get(&self, key: &str, timeout: Duration) -> Result<Vec<u8>, TchError> {
        let key = c_string(key)?;
        let (mut value, mut n) = (ptr::null_mut(), 0);
        // SAFETY: the store lives, and the key outlives the call. The value is from malloc, of n bytes, and ours.
        unsafe {
            let (store, timeout) = (self.pointer.as_ptr(), milliseconds(timeout));
            let message = vae_store_get(store, key.as_ptr(), timeout, &mut value, &mut n);
            taken(message)?;
            let bytes = std::slice::from_raw_parts(value, n).to_vec();
            libc::free(value.cast());
            Ok(bytes)
        }
    }

    /// Whether a key is set.
    ///
    /// # Errors
    /// The host is gone.
    pub fn has(&self, key: &str) -> Result<bool, TchError> {
        let (key, mut has) = (c_string(key)?, false);
        // SAFETY: the store lives, and the key outlives the call.
        unsafe { taken(vae_store_has(self.pointer.as_ptr(), key.as_ptr(), &mut has))? };
        Ok(has)
    }

    /// Adds to a counter, which begins at 0, and returns the sum.
    ///
    /// # Errors
    /// The host is gone.
    pub fn add(&self, key: &str, amount: i64) -> Result<i64, TchError> {
        let (key, mut sum) = (c_string(key)?, 0);
        // SAFETY: the store lives, and the key outlives the call.
        unsafe {
            let store = self.pointer.as_ptr();
            taken(vae_store_add(store, key.as_ptr(), amount, &mut sum))?;
        }
        Ok(sum)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // SAFETY: made by `vae_store_new`, and not used any more.
        unsafe { vae_store_delete(self.pointer.as_ptr()) };
    }
}

/// Where the other processes of a [`Group`] reach this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Network {
    /// At this address of the machine, such as `10.0.0.5`.
    Address(String),
    /// At the address of the interface of this name, such as `eth0`.
    Interface(String),
}

impl Network {
    /// For processes of a single machine.
    #[must_use]
    pub fn local() -> Self {
        Self::Address("127.0.0.1".to_owned())
    }
}

/// An operation between the values of all processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduction {
    /// Their sum.
    Sum,
    /// The least.
    Min,
    /// The largest.
    Max,
}

/// Processes that compute together, each with its rank. All of them make the same calls in the same order, with tensors of
/// the same kinds and sizes. Sums are the same, bit for bit, in all of them, and whenever the numbers are.
///
/// After an error the group is of no more use, and should be dropped at once: the others learn from that.
#[derive(Debug)]
pub struct Group {
    pointer: NonNull<c_void>,
    rank: usize,
    size: usize,
}

// SAFETY: it holds no thread's own state.
unsafe impl Send for Group {}
// SAFETY: c10d's backend locks its queue of operations.
unsafe impl Sync for Group {}

impl Group {
    /// Joins the group of this name at a store, as one of `size` processes. Waits for all of them. Later calls wait for the
    /// others as long as the timeout.
    ///
    /// # Errors
    /// Not all join within the timeout; no such interface.
    pub fn join(
        store: &Store,
        name: &str,
        rank: usize,
        size: usize,
        timeout: Duration,
        network: &Network,
    ) -> Result<Self, TchError> {
        let (interface, address) = match network {
            Network::Interface(name) => (name.as_str(), ""),
            Network::Address(address) => ("", address.as_str()),
        };
        let (name, interface) = (c_string(name)?, c_string(interface)?);
        let address = c_string(address)?;
        let mut group = ptr::null_mut();
        // SAFETY: the store lives, and the strings outlive the call; the group holds on to the store's inside by itself.
        unsafe {
            taken(vae_group_new(
                store.pointer.as_ptr(),
                name.as_ptr(),
                small(rank)?,
                small(size)?,
                milliseconds(timeout),
                interface.as_ptr(),
                address.as_ptr(),
                &mut group,
            ))?;
        }
        let pointer = NonNull::new(group).expect("a call without a message made a group");
        Ok(Self {
            pointer,
            rank,
            size,
        })
    }

    /// From now on tensors of GPUs go by NVIDIA's NCCL instead of over the CPU by Gloo. `library` is the name or the path of
    /// `libvae_nccl.so`, which `cargo xtask nccl` makes. All processes call it, after libtorch's CUDA library was loaded and the
    /// process has a GPU of its own.
    ///
    /// # Errors
    /// No such library, or one of another libtorch; not all processes call it.
    pub fn use_nccl(
        &self,
        store: &Store,
        name: &str,
        library: &str,
        timeout: Duration,
    ) -> Result<(), TchError> {
        let (name, library) = (c_string(name)?, c_string(library)?);
        // SAFETY: group and store live, and the strings outlive the call; the library is ours, of the same libtorch.
        unsafe {
            taken(vae_group_use_nccl(
                self.pointer.as_ptr(),
                store.pointer.as_ptr(),
                name.as_ptr(),
                library.as_ptr(),
                milliseconds(timeout),
            ))
        }
    }

    /// The rank of this process, from 0.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// The number of processes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }

    /// The time that this process has spent in the group's operations: in waiting for the others and for the network.
    #[must_use]
    pub fn time_spent(&self) -> Duration {
        // SAFETY: the group lives.
        let nanoseconds = unsafe { vae_group_nanoseconds(self.pointer.as_ptr()) };
        Duration::from_nanos(nanoseconds.max(0) as u64)
    }

    /// Replaces the values of a tensor, which must be one piece of memory, by those of all processes together.
    ///
    /// # Errors
    /// A process is gone or does not answer; a tensor with gaps.
    pub fn all_reduce(&self, tensor: &Tensor, reduction: Reduction) -> Result<(), TchError> {
        let operation = match reduction {
            Reduction::Sum => 0,
            Reduction::Min => 1,
            Reduction::Max => 2,
        };
        // SAFETY: group and tensor live; the call returns when their values are complete.
        unsafe {
            let group = self.pointer.as_ptr();
            taken(vae_group_all_reduce(group, tensor.as_ptr(), operation))
        }
    }

    /// The sum of a tensor over all processes, through which gradients pass: the gradient of the tensor is, in each process,
    /// the sum of the gradients that the sum has in all of them. So the backward passes of all processes have to reach their
    /// sums in the same order.
    ///
    /// # Errors
    /// Those of [`Self::all_reduce`].
    pub fn sum(&self, tensor: &Tensor) -> Result<Tensor, TchError> {
        let mut output = ptr::null_mut();
        // SAFETY: as above; the output is a tensor of its own.
        unsafe {
            let group = self.pointer.as_ptr();
            taken(vae_group_sum(group, tensor.as_ptr(), &mut output))?;
            Ok(Tensor::from_ptr(output))
        }
    }

    /// The rows of all processes, by rank, `counts[r]` of rank r, of which this one has `own`, `[counts[rank], …]`:
    /// `[Σcounts, …]`, the same bits in all processes. Gradients pass to `own`, multiplied by the number of processes: if all
    /// compute the same loss of these rows, the mean of a weight's gradients over the processes is then its gradient, whether
    /// the weight made the rows of one process or is used with all of them.
    ///
    /// # Errors
    /// Those of [`Self::all_reduce`]; another number of rows.
    pub fn rows(&self, own: &Tensor, counts: &[i64]) -> Result<Tensor, TchError> {
        if counts.len() != self.size {
            let problem = format!("{} counts for {} processes", counts.len(), self.size);
            return Err(TchError::Torch(problem));
        }
        let mut output = ptr::null_mut();
        // SAFETY: group and tensor live, and there is a count for each rank; the output is a tensor of its own.
        unsafe {
            let group = self.pointer.as_ptr();
            let message = vae_group_rows(group, own.as_ptr(), counts.as_ptr(), &mut output);
            taken(message)?;
            Ok(Tensor::from_ptr(output))
        }
    }

    /// Batch norm of maps `[B, C, H, W]` in training by the mean and the variance of all processes, which have `n` values in each
    /// channel, through which gradients pass; and the two, `[C]` each, the variance biased. Where a process has rows for form's sake
    /// alone, `counts` is false.
    ///
    /// # Errors
    /// Those of [`Self::all_reduce`].
    pub fn batch_norm(
        &self,
        maps: &Tensor,
        [weight, bias]: [&Tensor; 2],
        n: i64,
        epsilon: f64,
        counts: bool,
    ) -> Result<[Tensor; 3], TchError> {
        let mut made = [ptr::null_mut(); 3];
        let [output, mean, variance] = &mut made;
        // SAFETY: group and tensors live; the results are tensors of their own.
        unsafe {
            taken(vae_group_batch_norm(
                self.pointer.as_ptr(),
                maps.as_ptr(),
                weight.as_ptr(),
                bias.as_ptr(),
                n as f64,
                epsilon,
                counts,
                output,
                mean,
                variance,
            ))?;
            Ok(made.map(|tensor| Tensor::from_ptr(tensor)))
        }
    }

    /// The same values, of a tensor that is the same in all processes. Its gradient is the mean of those that the processes
    /// find: each of them uses some of the values for rows of its own, whose gradients are multiplied by the number of
    /// processes ([`Self::rows`]), so that the mean is the gradient of all.
    ///
    /// # Errors
    /// Those of [`Self::all_reduce`], in the backward pass.
    pub fn shared(&self, tensor: &Tensor) -> Result<Tensor, TchError> {
        let mut output = ptr::null_mut();
        // SAFETY: as above.
        unsafe {
            let group = self.pointer.as_ptr();
            taken(vae_group_shared(group, tensor.as_ptr(), &mut output))?;
            Ok(Tensor::from_ptr(output))
        }
    }

    /// Replaces the values of a tensor, which must be one piece of memory, by those that it has at rank `root`.
    ///
    /// # Errors
    /// Those of [`Self::all_reduce`].
    pub fn broadcast(&self, tensor: &Tensor, root: usize) -> Result<(), TchError> {
        // SAFETY: as above.
        unsafe {
            let group = self.pointer.as_ptr();
            taken(vae_group_broadcast(group, tensor.as_ptr(), small(root)?))
        }
    }

    /// The tensors of all processes, which have the same size, by rank: `[N, …]` of N processes.
    ///
    /// # Errors
    /// Those of [`Self::all_reduce`].
    pub fn all_gather(&self, tensor: &Tensor) -> Result<Tensor, TchError> {
        let n = i64::from(small(self.size)?);
        let input = tensor.detach().contiguous().view(-1);
        let n_values = n * input.size()[0];
        let output = Tensor::f_empty([n_values], (input.kind(), input.device()))?;
        // SAFETY: as above; the output has room for all.
        unsafe {
            let group = self.pointer.as_ptr();
            let message = vae_group_all_gather(group, output.as_ptr(), input.as_ptr());
            taken(message)?;
        }
        output.f_view([&[n], tensor.size().as_slice()].concat().as_slice())
    }

    /// Waits until all processes are here.
    ///
    /// # Errors
    /// Those of [`Self::all_reduce`].
    pub fn barrier(&self) -> Result<(), TchError> {
        // SAFETY: the group lives.
        unsafe { taken(vae_group_barrier(self.pointer.as_ptr())) }
    }

    /// Bytes of all processes, which may be of different lengths, by rank.
    ///
    /// # Errors
    /// Those of [`Self::all_reduce`].
    pub fn gather_bytes(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, TchError> {
        let lengths = self.all_gather(&Tensor::from_slice(&[bytes.len() as i64]))?;
        let lengths = Vec::<i64>::try_from(lengths.view(-1))?;
        let longest = lengths.iter().copied().max().unwrap_or(0).max(1) as usize;
        let mut padded = bytes.to_vec();
        padded.resize(longest, 0);
        let all = self.all_gather(&Tensor::from_slice(&padded))?;
        let all = Vec::<u8>::try_from(all.to_kind(Kind::Uint8).view(-1))?;
        let parts = all.chunks(longest).zip(lengths);
        Ok(parts
            .map(|(part, length)| part[..length as usize].to_vec())
            .collect())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // SAFETY: made by `vae_group_new`, and not used any more.
        unsafe { vae_group_delete(self.pointer.as_ptr()) };
    }
}

/// What each of `size` processes makes of its group, by rank, where threads of this process stand for them: for tests.
///
/// # Panics
/// If a thread panics, or the group cannot be formed.
pub fn among<T: Send>(size: usize, work: impl Fn(Arc<Group>) -> T + Sync) -> Vec<T> {
    const PATIENCE: Duration = Duration::from_secs(60);
    // One group at a time: on a busy machine one that forms while another ends was seen to lose a connection.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let host = Store::host(0, PATIENCE).expect("a port is free");
    let port = host.port();
    thread::scope(|scope| {
        let join = |rank| {
            let work = &work;
            scope.spawn(move || {
                let store = Store::join("localhost", port, PATIENCE).expect("the store is hosted");
                let network = Network::local();
                let group = Group::join(&store, "among", rank, size, PATIENCE, &network);
                work(Arc::new(group.expect("all join")))
            })
        };
        let threads: Vec<_> = (0..size).map(join).collect();
        let results = threads.into_iter();
        results
            .map(|thread| thread.join().expect("the thread's own message says why"))
            .collect()
    })
}

fn c_string(text: &str) -> Result<CString, TchError> {
    CString::new(text).map_err(|_| TchError::Torch(format!("{text:?} holds a zero byte")))
}

fn small(n: usize) -> Result<c_int, TchError> {
    c_int::try_from(n).map_err(|_| TchError::Torch(format!("{n} processes are too many")))
}

fn milliseconds(timeout: Duration) -> i64 {
    i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn ranks<T: Send>(size: usize, work: impl Fn(Group) -> T + Sync) -> Vec<T> {
        among(size, |group| work(Arc::into_inner(group).unwrap()))
    }

    fn numbers(tensor: &Tensor) -> Vec<f64> {
        Vec::try_from(tensor.to_kind(Kind::Double).view(-1)).unwrap()
    }

    #[test]
    fn all_ranks_get_the_same_results() {
        for size in [2, 3] {
            let n = size as f64;
            let found = ranks(size, |group| {
                let own = group.rank() as f64 + 1.0;
                let sum = Tensor::from_slice(&[own, 10.0 * own]);
                group.all_reduce(&sum, Reduction::Sum).unwrap();
                let most = Tensor::from_slice(&[own as i64]);
                group.all_reduce(&most, Reduction::Max).unwrap();
                let least = Tensor::from_slice(&[own as f32]);
                group.all_reduce(&least, Reduction::Min).unwrap();
                let first = Tensor::from_slice(&[own]);
                group.broadcast(&first, 1).unwrap();
                let gathered = group.all_gather(&Tensor::from_slice(&[own, -own])).unwrap();
                group.barrier().unwrap();
                let name = "x".repeat(group.rank());
                let names = group.gather_bytes(name.as_bytes()).unwrap();
                let lengths: Vec<usize> = names.iter().map(Vec::len).collect();
                let tensors = [sum, most, least, first].map(|tensor| numbers(&tensor));
                assert!(group.time_spent() > Duration::ZERO);
                (tensors, numbers(&gathered), lengths)
            });
            let all: f64 = (1..=size).map(|i| i as f64).sum();
            for (tensors, gathered, lengths) in found {
                assert_eq!(tensors[0], [all, 10.0 * all]);
                assert_eq!(tensors[1..], [vec![n], vec![1.0], vec![2.0]]);
                let wanted = (1..=size).flat_map(|i| [i as f64, -(i as f64)]);
                assert_eq!(gathered, wanted.collect::<Vec<_>>());
                assert_eq!(lengths, (0..size).collect::<Vec<_>>());
            }
        }
    }

    /// A loss that is no sum over rows, of rows x·w and a weight v that all of them meet: its gradients by w and v.
    fn gradients(rows: impl Fn(&Tensor) -> Tensor, inputs: &Tensor) -> [Tensor; 2] {
        let [w, v] = [0.5, -2.0].map(|value| Tensor::from(value).set_requires_grad(true));
        let rows = rows(&(inputs * &w));
        let loss = ((&rows * &v).logsumexp(0, false) * rows.mean(Kind::Double)).sin();
        loss.backward();
        [w.grad(), v.grad()]
    }

    #[test]
    fn a_loss_of_all_rows_has_the_gradients_of_one_process() {
        let inputs = Tensor::from_slice(&[0.3, -1.0, 0.7, 2.0, 0.1]);
        let wanted = gradients(Tensor::shallow_clone, &inputs);
        let numbers = [0.3, -1.0, 0.7, 2.0, 0.1];
        let found = ranks(2, |group| {
            // Three rows and two.
            let own = if group.rank() == 0 { 0..3 } else { 3..5 };
            let own = Tensor::from_slice(&numbers[own]);
            let found = gradients(|rows| group.rows(rows, &[3, 2]).unwrap(), &own);
            found.map(|gradient| {
                let mean = gradient.copy();
                group.all_reduce(&mean, Reduction::Sum).unwrap();
                f64::try_from(mean / 2.0).unwrap()
            })
        });
        for rank in found {
            for (found, wanted) in rank.iter().zip(&wanted) {
                let wanted = wanted.double_value(&[]);
                assert!((found - wanted).abs() < 1e-12, "{found} {wanted}");
            }
        }
    }

    /// A weight makes the latents, a decoder of each process sees its share, and a term sees all latents and all outputs.
    #[test]
    fn what_all_share_gets_the_gradient_of_all_rows() {
        let numbers = [0.3, -1.0, 0.7, 2.0, 0.1];
        let loss = |latents: &Tensor, outputs: &Tensor| {
            (outputs * latents.exp()).sum(Kind::Double).sin() + outputs.logsumexp(0, false)
        };
        let weights = || [0.5, -2.0].map(|value| Tensor::from(value).set_requires_grad(true));
        let [w, v] = weights();
        let latents = (Tensor::from_slice(&numbers) * &w).tanh();
        loss(&latents, &(&latents * &v).cos()).backward();
        let wanted = [&w, &v].map(|weight| weight.grad().double_value(&[]));
        let found = ranks(2, |group| {
            let [w, v] = weights();
            let range = if group.rank() == 0 { 0..3 } else { 3..5 };
            let own = Tensor::from_slice(&numbers[range.clone()]);
            let counts = [3, 2];
            let encoded = group.rows(&(own * &w), &counts).unwrap();
            let latents = encoded.tanh();
            let shared = group.shared(&latents).unwrap();
            let mine = shared.narrow(0, range.start as i64, range.len() as i64);
            let outputs = group.rows(&(mine * &v).cos(), &counts).unwrap();
            loss(&latents, &outputs).backward();
            [&w, &v].map(|weight| {
                let mean = weight.grad().copy();
                group.all_reduce(&mean, Reduction::Sum).unwrap();
                f64::try_from(mean / 2.0).unwrap()
            })
        });
        for rank in found {
            for (found, wanted) in rank.iter().zip(&wanted) {
                assert!((found - wanted).abs() < 1e-12, "{found} {wanted}");
            }
        }
    }

    #[test]
    fn gradients_pass_sums_over_all() {
        // Standardized by the mean of all rows, as batch norm does.
        let numbers = [0.3, -1.0, 0.7, 2.0];
        let loss = |values: &Tensor, mean: &Tensor| {
            let weights = values.detach().exp();
            ((values - mean).pow_tensor_scalar(3) * weights).sum(Kind::Double)
        };
        let all = Tensor::from_slice(&numbers).set_requires_grad(true);
        loss(&all, &all.mean(Kind::Double)).backward();
        let wanted = super::tests::numbers(&all.grad());
        let found = ranks(2, |group| {
            let own = Tensor::from_slice(&numbers[2 * group.rank()..][..2]);
            let own = own.set_requires_grad(true);
            let mean = group.sum(&own.sum(Kind::Double)).unwrap() / 4.0;
            loss(&own, &mean).backward();
            super::tests::numbers(&own.grad())
        });
        for (found, wanted) in found.concat().iter().zip(wanted) {
            assert!((found - wanted).abs() < 1e-12, "{found} {wanted}");
        }
    }

    #[test]
    fn batch_norm_of_all_has_the_values_and_the_gradients_of_one_process() {
        let kind = (Kind::Float, tch::Device::Cpu);
        let maps = || ((Tensor::arange(5 * 3 * 4 * 4, kind) * 0.7).sin() + 2.0).view([5, 3, 4, 4]);
        let weights = || {
            [
                Tensor::from_slice(&[0.5_f32, 1.5, -2.0]),
                Tensor::zeros([3], kind),
            ]
        };
        let loss = |output: &Tensor| (output.pow_tensor_scalar(3) + output.sin()).sum(Kind::Float);
        let [w, b] = weights().map(|weight| weight.set_requires_grad(true));
        let x = maps().set_requires_grad(true);
        let moments = [Tensor::zeros([3], kind), Tensor::ones([3], kind)];
        let [mean, var] = &moments;
        let options = (true, 1.0, 1e-5, true);
        let wanted = x.batch_norm(
            Some(&w),
            Some(&b),
            Some(mean),
            Some(var),
            options.0,
            options.1,
            options.2,
            options.3,
        );
        loss(&wanted).backward();
        let whole = [wanted.detach(), x.grad(), mean.copy(), var * (79.0 / 80.0)];
        let whole = whole.map(|tensor| numbers(&tensor));
        let of_weights = [w.grad(), b.grad()].map(|tensor| numbers(&tensor));
        // Three rows, two, and one for form's sake.
        let found = ranks(3, |group| {
            let (start, n) = [(0, 3), (3, 2), (0, 1)][group.rank()];
            let counts = group.rank() < 2;
            let x = maps().narrow(0, start, n).copy().set_requires_grad(true);
            let [w, b] = weights().map(|weight| weight.set_requires_grad(true));
            let normalized = group.batch_norm(&x, [&w, &b], 80, 1e-5, counts).unwrap();
            let [output, mean, variance] = normalized;
            (loss(&output) * f64::from(u8::from(counts))).backward();
            let own = [&output.detach(), &x.grad(), &mean, &variance].map(numbers);
            (own, [w.grad(), b.grad()].map(|tensor| numbers(&tensor)))
        });
        let near = |found: &[f64], wanted: &[f64]| {
            assert_eq!(found.len(), wanted.len());
            for (found, wanted) in found.iter().zip(wanted) {
                assert!(
                    (found - wanted).abs() < 2e-4 * (1.0 + wanted.abs()),
                    "{found} {wanted}"
                );
            }
        };
        for (i, wanted) in whole.iter().enumerate().take(2) {
            let rows = [found[0].0[i].clone(), found[1].0[i].clone()].concat();
            near(&rows, wanted);
        }
        assert!(found[2].0[1].iter().all(|&gradient| gradient == 0.0));
        for (own, _) in &found {
            near(&own[2], &whole[2]);
            near(&own[3], &whole[3]);
        }
        for (i, wanted) in of_weights.iter().enumerate() {
            let sum = found.iter().map(|(_, own)| &own[i]);
            let sum = sum.fold(vec![0.0; 3], |sum: Vec<f64>, own| {
                sum.iter().zip(own).map(|(a, b)| a + b).collect()
            });
            near(&sum, wanted);
        }
    }

    #[test]
    fn a_tensor_with_gaps_is_refused() {
        ranks(2, |group| {
            let whole = Tensor::zeros([4, 4], (Kind::Float, tch::Device::Cpu));
            let error = group
                .all_reduce(&whole.select(1, 0), Reduction::Sum)
                .unwrap_err();
            assert!(error.to_string().contains("no one piece"), "{error}");
        });
    }

    #[test]
    fn a_rank_that_leaves_is_an_error_of_the_others() {
        let begun = Instant::now();
        let outcomes = ranks(2, |group| {
            if group.rank() == 1 {
                return true; // The group is dropped.
            }
            group.barrier().is_err()
        });
        assert_eq!(outcomes, [true, true]);
        assert!(begun.elapsed() < PATIENCE / 2);
    }

    #[test]
    fn a_library_that_is_not_there_is_an_error_and_the_group_goes_on() {
        let found = ranks(2, |group| {
            let store = Store::host(0, PATIENCE).unwrap();
            let error = group.use_nccl(&store, "test", "libvae_no_nccl.so", PATIENCE);
            let sum = Tensor::from_slice(&[1.0]);
            group.all_reduce(&sum, Reduction::Sum).unwrap();
            (error.unwrap_err().to_string(), numbers(&sum))
        });
        for (error, sum) in found {
            assert!(error.contains("libvae_no_nccl.so"), "{error}");
            assert_eq!(sum, [2.0]);
        }
    }

    #[test]
    fn one_that_never_comes_is_an_error_after_the_timeout_and_so_is_a_port_that_is_taken() {
        let short = Duration::from_millis(500);
        let host = Store::host(0, short).unwrap();
        let error = Group::join(&host, "test", 0, 2, short, &Network::local());
        assert!(error.is_err());
        let taken = Store::host(host.port(), short).unwrap_err();
        assert!(!taken.to_string().is_empty());
        assert!(host.get("nothing", short).is_err());
        host.set("key", b"value").unwrap();
        assert_eq!(host.get("key", short).unwrap(), b"value");
        assert!(host.has("key").unwrap() && !host.has("nothing").unwrap());
        assert_eq!(
            [host.add("n", 2).unwrap(), host.add("n", 3).unwrap()],
            [2, 5]
        );
    }
}
