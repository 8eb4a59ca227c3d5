//! `--validate`: asks the controller whether it can open every SealedSecret of a stream. Silent when it can.

use kube::ResourceExt as _;

use crate::{cluster, command::Validate, commands::input, exit::Error, io::Io};

pub async fn run(command: Validate, io: &mut Io<'_>) -> Result<(), Error> {
    let Validate { input, namespace, access, controller } = command;
    let (text, _) = input::read(input.as_deref(), io)?;
    let mut found = input::sealed_secrets(&text, "SealedSecrets cannot be validated")?;
    input::settle_namespaces(&mut found, namespace.as_deref(), Some(&access), io)?;
    let cluster = cluster::connect(&access).await?;
    let controller = cluster.controller(&controller).await?;
    for (_, sealed) in found {
        let body = serde_json::to_string(&sealed).map_err(crate::output::OutputError::Json)?;
        controller.verify(&sealed.name_any(), &body).await?;
    }
    Ok(())
}
