//! `seal keys retire` and `seal keys reinstate`: sets a key aside that nothing needs, and takes it up again.

use crds::key_life::{Mark, State};

use super::{Found, KeysError, Outcome, write};
use crate::{
    exit::{Error, Exit},
    io::Io,
    verbs::keys::{Reinstate, Retire},
};

pub async fn retire(command: Retire, io: &mut Io<'_>) -> Result<Exit, Error> {
    let Retire { which, force, dry_run, output, home } = command;
    let found = Found::by(home).await?;
    let chosen = found.choose(&which.key)?;
    match chosen.state {
        State::Sealing => return Err(KeysError::Seals(chosen.fingerprint.clone()).into()),
        State::Compromised => return Err(KeysError::Compromised(chosen.fingerprint.clone()).into()),
        State::Superseded | State::Retired => {}
    }
    let needs = match found.needs().await {
        Ok(needs) => Some(needs),
        Err(_) if force => None,
        Err(error) => return Err(error.into()),
    };
    let mut outcome = Outcome::of(&chosen, Mark::Retired, needs.as_ref(), dry_run);
    let refused = !force && !outcome.is_needless() && chosen.state != State::Retired;
    if refused {
        outcome.refuse();
    } else {
        found.mark(chosen.names(), &Mark::Retired.patch(), dry_run).await?;
    }
    write(&outcome, || outcome.text("still need it"), output, io)?;
    if refused {
        let (needed, unknown) = outcome.counts();
        return Err(KeysError::Needed { key: chosen.fingerprint, needed, unknown }.into());
    }
    Ok(Exit::Ok)
}

pub async fn reinstate(command: Reinstate, io: &mut Io<'_>) -> Result<Exit, Error> {
    let Reinstate { which, dry_run, output, home } = command;
    let found = Found::by(home).await?;
    let chosen = found.choose(&which.key)?;
    found.mark(chosen.names(), &Mark::Active.patch(), dry_run).await?;
    let outcome = Outcome::of(&chosen, Mark::Active, None, dry_run);
    write(&outcome, || outcome.text(""), output, io)?;
    Ok(Exit::Ok)
}
