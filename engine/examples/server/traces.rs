//! The reports of the last requests. A ring: what a server keeps of its past must have an end.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use http::StatusCode;
use watershed::report::Report;

/// How many are kept.
pub(crate) const KEPT: usize = 200;

/// One request that is over.
pub(crate) struct Trace {
    pub(crate) request: Arc<str>,
    /// None: the client went before there was a response.
    pub(crate) status: Option<StatusCode>,
    pub(crate) report: Report,
}

#[derive(Default)]
pub(crate) struct Traces(Mutex<VecDeque<Arc<Trace>>>);

impl Traces {
    pub(crate) fn keep(&self, trace: Trace) {
        let oldest = {
            let mut ring = self.0.lock().unwrap();
            ring.push_back(Arc::new(trace));
            if ring.len() > KEPT {
                ring.pop_front()
            } else {
                None
            }
        };
        // Not under the lock: a report is a list of many things.
        drop(oldest);
    }

    pub(crate) fn find(&self, request: &str) -> Option<Arc<Trace>> {
        let ring = self.0.lock().unwrap();
        ring.iter()
            .rev()
            .find(|trace| *trace.request == *request)
            .cloned()
    }

    /// Forgets all of them; gives how many there were.
    pub(crate) fn clear(&self) -> usize {
        let all = std::mem::take(&mut *self.0.lock().unwrap());
        all.len()
    }

    /// The latest, newest first.
    pub(crate) fn latest(&self, count: usize) -> Vec<Arc<Trace>> {
        self.0
            .lock()
            .unwrap()
            .iter()
            .rev()
            .take(count)
            .cloned()
            .collect()
    }
}
