//! The share of a batch that one of several processes computes.
//!
//! Every process has the whole batch's posterior parameters, latents, noise, densities and losses, the same bits in all of them,
//! so that whatever an objective makes of a batch is what a single process would make of it. Only what is large is divided:
//! each process encodes its own items, decodes their latents, and compares them. So there are two kinds of tensors:
//!
//! - Those that all processes have. Their gradient in each process is the gradient of the whole batch's loss.
//! - Those of a process's own rows. Their gradient is multiplied by the number of processes, so that the mean of a
//!   weight's gradients over the processes is its gradient, wherever the weight is used.
//!
//! [`Share::gathered`] makes the first of the second, [`Share::scattered`] the second of the first, and [`Share::sum`], a sum
//! over the rows of all, is of the second kind like what it adds up.

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use tch::{Kind, TchError, Tensor};
use vae_base::Portion;
use vae_torch::Group;

use crate::{ModelError, Term, Terms};

thread_local! {
    static CURRENT: RefCell<Option<Share>> = const { RefCell::new(None) };
}

/// The rows of a batch that this process of a [`Group`] computes, its [`Portion`]. Where there are more processes than rows,
/// one without a row computes the first for form's sake, which counts for nothing.
#[derive(Clone, Debug)]
pub struct Share {
    group: Arc<Group>,
    /// The number of rows of each rank.
    counts: Vec<i64>,
    rows: Range<i64>,
    /// The first error of the group, if there was one: what was computed since means nothing.
    failure: Rc<RefCell<Option<TchError>>>,
}

impl Share {
    /// This process's share of `n` rows.
    #[must_use]
    pub fn of(group: &Arc<Group>, n: i64) -> Self {
        let size = group.size();
        let rows = |rank| {
            let rows = Portion { rank, size }.rows(n.max(0) as usize);
            rows.start as i64..rows.end as i64
        };
        Self {
            counts: (0..size)
                .map(|rank| rows(rank).end - rows(rank).start)
                .collect(),
            rows: rows(group.rank()),
            group: Arc::clone(group),
            failure: Rc::default(),
        }
    }

    /// The portion of every batch that this process computes.
    #[must_use]
    pub fn portion(group: Option<&Arc<Group>>) -> Portion {
        group.map_or(Portion::WHOLE, |group| Portion {
            rank: group.rank(),
            size: group.size(),
        })
    }

    /// The number of rows of all processes together.
    #[must_use]
    pub fn n_rows(&self) -> i64 {
        self.counts.iter().sum()
    }

    /// The number of rows that this process computes.
    #[must_use]
    pub fn n_computed(&self) -> i64 {
        let rows = self.computed();
        rows.end - rows.start
    }

    fn computed(&self) -> Range<i64> {
        match self.rows.is_empty() {
            true => 0..1,
            false => self.rows.clone(),
        }
    }

    /// The first error of the group.
    ///
    /// # Errors
    /// Another process is gone or does not answer.
    pub fn check(&self) -> Result<(), ModelError> {
        match self.failure.borrow_mut().take() {
            Some(error) => Err(error.into()),
            None => Ok(()),
        }
    }

    /// What the group computes; after its first error, at once, something of the same shape.
    fn by_group(
        &self,
        work: impl FnOnce(&Group) -> Result<Tensor, TchError>,
        instead: impl FnOnce() -> Tensor,
    ) -> Tensor {
        if self.failure.borrow().is_some() {
            return instead();
        }
        work(&self.group).unwrap_or_else(|error| {
            *self.failure.borrow_mut() = Some(error);
            instead()
        })
    }

    /// The computed rows of a tensor that all processes have, along a dimension, without a thought of gradients.
    pub(crate) fn own(&self, whole: &Tensor, dim: i64) -> Tensor {
        let rows = self.computed();
        whole.narrow(dim, rows.start, rows.end - rows.start)
    }

    /// Likewise of a tensor through which gradients pass.
    pub(crate) fn scattered(&self, whole: &Tensor, dim: i64) -> Tensor {
        if !whole.requires_grad() {
            return self.own(whole, dim);
        }
        let shared = self.by_group(|group| group.shared(whole), || whole.shallow_clone());
        self.own(&shared, dim)
    }

    /// The rows of all processes, of which this one computed `own`, along a dimension; or several of each, all first ones
    /// before all second ones.
    pub(crate) fn gathered(&self, own: &Tensor, dim: i64) -> Tensor {
        let n_computed = self.n_computed();
        if own.size()[dim as usize] != n_computed {
            let by_item = own.unflatten(dim, [-1, n_computed]);
            return self.gathered(&by_item, dim + 1).flatten(dim, dim + 1);
        }
        let n_own = self.rows.end - self.rows.start;
        let first = own.narrow(dim, 0, n_own).transpose(0, dim);
        let instead = || {
            let size = [&[self.n_rows()], &first.size()[1..]].concat();
            Tensor::zeros(size, (first.kind(), first.device()))
        };
        let rows = self.by_group(|group| group.rows(&first, &self.counts), instead);
        rows.transpose(0, dim).contiguous()
    }

    /// The sum over all processes of what each of them made of its own rows.
    pub fn sum(&self, own: &Tensor) -> Tensor {
        let own = match self.rows.is_empty() {
            true => own * 0.0,
            false => own.shallow_clone(),
        };
        self.by_group(|group| group.sum(&own), || own.shallow_clone())
    }

    /// The mean over the batch of a mean over this process's rows.
    pub(crate) fn mean(&self, own: &Tensor) -> Tensor {
        let n_own = self.rows.end - self.rows.start;
        self.sum(&(own * n_own as f64)) / self.n_rows() as f64
    }

    /// The mean over the processes of a tensor that all have, such as a weight's gradient.
    pub(crate) fn mean_of_processes(&self, tensor: &Tensor) -> Tensor {
        let fixed = tensor.detach();
        let sum = self.by_group(|group| group.sum(&fixed), || fixed.shallow_clone());
        sum / self.group.size() as f64
    }

    /// Batch norm by the statistics of all processes, which have `n` values in each channel: the maps, and mean and biased variance
    /// `[C]`.
    pub(crate) fn batch_norm(
        &self,
        maps: &Tensor,
        layer: [&Tensor; 2],
        n: i64,
        epsilon: f64,
    ) -> [Tensor; 3] {
        let instead = || [maps, layer[0], layer[0]].map(Tensor::shallow_clone);
        if self.failure.borrow().is_some() {
            return instead();
        }
        let counts = !self.rows.is_empty();
        let normalized = self.group.batch_norm(maps, layer, n, epsilon, counts);
        normalized.unwrap_or_else(|error| {
            *self.failure.borrow_mut() = Some(error);
            instead()
        })
    }

    /// Terms of a process's own rows as those of the batch: rows, or means over rows.
    pub(crate) fn gathered_terms(&self, own: &Terms) -> Terms {
        let mut terms = Terms::default();
        for (term, value) in own.iter() {
            let whole = match value.dim() {
                0 => self.mean(&value.to_kind(Kind::Double)),
                _ => self.gathered(value, 0),
            };
            terms.push(Term::clone(term), &whole);
        }
        terms
    }

    /// Runs what is done with this process's own rows: layers with statistics of the batch take those of all processes.
    pub(crate) fn scope<T>(&self, work: impl FnOnce() -> T) -> T {
        let _outer = Outer(CURRENT.replace(Some(self.clone())));
        work()
    }
}

/// The share of the scope around this one, restored even if its work panics.
struct Outer(Option<Share>);

impl Drop for Outer {
    fn drop(&mut self) {
        CURRENT.set(self.0.take());
    }
}

/// The share of the scope that this thread is in.
pub(crate) fn current() -> Option<Share> {
    CURRENT.with_borrow(Clone::clone)
}

/// What is done with the rows of a share, or with all where there is a single process.
pub(crate) trait Shared {
    /// [`Share::own`].
    fn own(&self, whole: &Tensor, dim: i64) -> Tensor;
    /// [`Share::scattered`].
    fn scattered(&self, whole: &Tensor, dim: i64) -> Tensor;
    /// [`Share::gathered`].
    fn gathered(&self, own: &Tensor, dim: i64) -> Tensor;
    /// [`Share::scope`].
    fn scope<T>(&self, work: impl FnOnce() -> T) -> T;
    /// The number of rows of all processes, of which this one computes `n`.
    fn n_rows_of(&self, n: i64) -> i64;
}

impl Shared for Option<Share> {
    fn own(&self, whole: &Tensor, dim: i64) -> Tensor {
        match self {
            Some(share) => share.own(whole, dim),
            None => whole.shallow_clone(),
        }
    }

    fn scattered(&self, whole: &Tensor, dim: i64) -> Tensor {
        match self {
            Some(share) => share.scattered(whole, dim),
            None => whole.shallow_clone(),
        }
    }

    fn gathered(&self, own: &Tensor, dim: i64) -> Tensor {
        match self {
            Some(share) => share.gathered(own, dim),
            None => own.shallow_clone(),
        }
    }

    fn scope<T>(&self, work: impl FnOnce() -> T) -> T {
        match self {
            Some(share) => share.scope(work),
            None => work(),
        }
    }

    fn n_rows_of(&self, n: i64) -> i64 {
        match self {
            Some(share) => n / share.n_computed() * share.n_rows(),
            None => n,
        }
    }
}

/// Numbers for the rows that this thread's scope computes, `n_rows` of them (several of each item one behind the other), drawn
/// for all rows of the batch as a single process would draw them. `draw` makes them for a number of rows.
pub(crate) fn drawn_for(n_rows: i64, draw: impl FnOnce(i64) -> Tensor) -> Tensor {
    let Some(share) = current() else {
        return draw(n_rows);
    };
    let n_computed = share.n_computed();
    let times = n_rows / n_computed;
    let whole = draw(times * share.n_rows());
    let by_item = whole.unflatten(0, [times, share.n_rows()]);
    share.own(&by_item, 1).flatten(0, 1)
}

/// The sum over the batch of what this thread's scope added up over its own rows.
pub(crate) fn sum_of_batch(own: Tensor) -> Tensor {
    match current() {
        Some(share) => share.sum(&own),
        None => own,
    }
}

/// The number of values of the batch, of which this thread's scope has `n`.
pub(crate) fn n_of_batch(n: i64) -> i64 {
    current().n_rows_of(n)
}
