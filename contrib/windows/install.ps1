<#
.SYNOPSIS
Install, update or repair speakeasyd as a Windows service. Run in an elevated PowerShell.
Without an administrator: pip install it anywhere, then `speakeasyd service install --user`.

.PARAMETER Base
Folder of the virtual environment.

.PARAMETER WinSW
Path to WinSW-x64.exe (https://github.com/winsw/winsw/releases), which runs a console program as a service.

.PARAMETER Extras
Optional dependencies, such as "bundled,server" or "bundled,server,gpu".
#>
param(
    [string]$Base = "$env:ProgramData\speakeasyd",
    [Parameter(Mandatory = $true)][string]$WinSW,
    [string]$Extras = "bundled,server"
)
$ErrorActionPreference = "Stop"
$Source = (Resolve-Path "$PSScriptRoot\..\..").Path
$Program = "$Base\venv\Scripts\speakeasyd.exe"

if (Test-Path $Program) { & $Program service stop --system } # it could not be replaced while it runs
if (-not (Test-Path "$Base\venv\Scripts\python.exe")) { py -3 -m venv "$Base\venv" }
& "$Base\venv\Scripts\python.exe" -m pip install --quiet --upgrade "$Source[$Extras]"
if ($LASTEXITCODE) { throw "pip failed" }
& $Program service install --system --winsw $WinSW
if ($LASTEXITCODE) { throw "the service could not be installed" }
