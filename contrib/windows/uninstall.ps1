<#
.SYNOPSIS
Remove the service. The inbox, the outbox, the state and the configuration are kept.
#>
param([string]$Base = "$env:ProgramData\speakeasyd")
$ErrorActionPreference = "Stop"
$Service = "$Base\speakeasyd-service.exe"
& $Service stop
& $Service uninstall
Remove-Item -Recurse -Force "$Base\venv", $Service, "$Base\speakeasyd-service.xml"
Write-Host "The service is uninstalled. Its files are kept in $Base."
