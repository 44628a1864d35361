//! What a simulated network does to the requests of this client beyond losing and delaying them: the simulation is asked at each one.
//! It may write down what is asked and answered as well. Compiled only under `--cfg madsim`.

use crate::{Error, http::{Http, Reply}};
use hyper::Method;
use std::{cell::RefCell, rc::Rc, time::Duration};

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Carried,
    /// The connection is half open: the request goes nowhere, and nobody says so.
    Swallowed,
    /// It is carried out, but no answer ever comes.
    Unheard,
    /// Its answer comes so much later.
    Late(Duration),
}
/// A request that is about to be sent.
pub struct Sent<'a> { pub addr: &'a str, pub method: &'a Method, pub path: &'a str, pub body: Option<&'a [u8]> }

/// Who writes down every request that may be carried out, each try for itself, and the answer that is heard, if one is.
pub trait Notes {
    /// A number under which the answer is told, if it is of interest.
    fn asked(&self, sent: &Sent) -> Option<u64>;
    fn answered(&self, number: u64, answer: &Reply);
}

type Tap = Rc<dyn Fn(&Sent) -> Fate>;
thread_local! {
    static TAP: RefCell<Option<Tap>> = const { RefCell::new(None) };
    static NOTES: RefCell<Option<Rc<dyn Notes>>> = const { RefCell::new(None) };
}

/// Asks `tap` at every request of this thread from now on.
pub fn set(tap: impl Fn(&Sent) -> Fate + 'static) { TAP.set(Some(Rc::new(tap))); }
pub(crate) fn ask(sent: &Sent) -> Fate {
    let tap = TAP.with_borrow(Clone::clone);
    tap.map_or(Fate::Carried, |tap| tap(sent))
}
/// Writes down what this thread's clients ask from now on.
pub fn set_notes(notes: impl Notes + 'static) { NOTES.set(Some(Rc::new(notes))); }
pub(crate) fn asked(sent: &Sent) -> Option<u64> { NOTES.with_borrow(Clone::clone)?.asked(sent) }
pub(crate) fn answered(noted: Option<u64>, answer: &Result<Reply, Error>) {
    if let (Some(number), Ok(reply), Some(notes)) = (noted, answer, NOTES.with_borrow(Clone::clone)) { notes.answered(number, reply); }
}
/// A copy of a request arrives from somewhere; nobody hears its answer.
pub async fn copy(addr: String, method: Method, path: String, body: Option<Vec<u8>>) {
    if let Ok(http) = Http::new(vec![addr.clone()]) {
        asked(&Sent { addr: &addr, method: &method, path: &path, body: body.as_deref() });
        let _ = http.carry(&addr, method, &path, body, Duration::from_secs(5)).await;
    }
}
