//! `seal keys compromised`: marks a key that somebody else may have, and says which values must be changed. The mark
//! comes first: what else goes wrong, nothing more is sealed with that key.

use crds::key_life::{self, Mark, State};

use super::{Found, Outcome, write};
use crate::{
    exit::{self, Error, Exit},
    io::Io,
    verbs::keys::Compromised,
};

pub async fn run(command: Compromised, io: &mut Io<'_>) -> Result<Exit, Error> {
    let Compromised { which, keep_opening, dry_run, output, waiting, home } = command;
    let found = Found::by(home).await?;
    let chosen = found.choose(&which.key)?;
    let mark = if keep_opening { Mark::Exposed } else { Mark::Compromised };
    let mut patch = mark.patch();
    let newest = found.keys.newest().is_some_and(|newest| newest.fingerprint == chosen.fingerprint);
    if newest {
        // A controller that waits for keys makes one only when it is asked to.
        patch["metadata"]["annotations"][key_life::REPLACE] = "true".into();
    }
    found.mark(chosen.names(), &patch, dry_run).await?;
    let needs = match found.needs().await {
        Ok(needs) => Some(needs),
        Err(error) => {
            io.warning(&format!("nobody can tell which values must be changed: {}", exit::chain(&error)));
            None
        }
    };
    let mut outcome = Outcome::of(&chosen, mark, needs.as_ref(), dry_run);
    let waited = if chosen.state == State::Sealing && !dry_run {
        found
            .another_certificate(waiting)
            .await
            .map(|served| outcome.sealing = Some(served.certificate.fingerprint().clone()))
    } else {
        Ok(())
    };
    write(&outcome, || outcome.text("hold values that must be changed"), output, io)?;
    waited.map(|()| Exit::Ok)
}
