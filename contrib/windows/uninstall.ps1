<#
.SYNOPSIS
Remove the service and its virtual environment. The inbox, the outbox, the state and the configuration are kept.
#>
param([string]$Base = "$env:ProgramData\speakeasyd")
$ErrorActionPreference = "Stop"
& "$Base\venv\Scripts\speakeasyd.exe" service uninstall --system
if ($LASTEXITCODE) { throw "the service could not be removed" }
Remove-Item -Recurse -Force "$Base\venv"
