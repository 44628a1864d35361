//! What a simulated network does to the requests of this client beyond losing and delaying them: the simulation is asked at each one.
//! Compiled only under `--cfg madsim`.

use crate::http::Http;
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

type Tap = Rc<dyn Fn(&Sent) -> Fate>;
thread_local! { static TAP: RefCell<Option<Tap>> = const { RefCell::new(None) }; }

/// Asks `tap` at every request of this thread from now on.
pub fn set(tap: impl Fn(&Sent) -> Fate + 'static) { TAP.set(Some(Rc::new(tap))); }
pub(crate) fn ask(sent: &Sent) -> Fate {
    let tap = TAP.with_borrow(Clone::clone);
    tap.map_or(Fate::Carried, |tap| tap(sent))
}
/// A copy of a request arrives from somewhere; nobody hears its answer.
pub async fn copy(addr: String, method: Method, path: String, body: Option<Vec<u8>>) {
    if let Ok(http) = Http::new(vec![addr.clone()]) {
        let _ = http.carry(&addr, method, &path, body, Duration::from_secs(5)).await;
    }
}
