<#
.SYNOPSIS
Install, update or repair speakeasyd as a Windows service. Run in an elevated PowerShell.

.PARAMETER Base
Folder of the virtual environment, configuration, state, inbox, outbox and logs.

.PARAMETER WinSW
Path to WinSW-x64.exe (https://github.com/winsw/winsw/releases), which runs a console program as a service.

.PARAMETER Extras
Optional dependencies, such as "bundled" or "bundled,gpu".
#>
param(
    [string]$Base = "$env:ProgramData\speakeasyd",
    [Parameter(Mandatory = $true)][string]$WinSW,
    [string]$Extras = "bundled"
)
$ErrorActionPreference = "Stop"
$Source = (Resolve-Path "$PSScriptRoot\..\..").Path
$Service = "$Base\speakeasyd-service.exe"

foreach ($folder in "", "inbox", "outbox", "state", "logs") {
    New-Item -ItemType Directory -Force -Path (Join-Path $Base $folder) | Out-Null
}
if (Get-Service speakeasyd -ErrorAction SilentlyContinue) { & $Service stop }

if (-not (Test-Path "$Base\venv\Scripts\python.exe")) { py -3 -m venv "$Base\venv" }
& "$Base\venv\Scripts\python.exe" -m pip install --quiet --upgrade "$Source[$Extras]"
if ($LASTEXITCODE) { throw "pip failed" }

if (-not (Test-Path "$Base\speakeasyd.toml")) {
    # Single quotes: backslashes are literal. A service has no mapped drives: use \\server\share for the network.
    $text = "state = '$Base\state'`n`n[[inboxes]]`npath = '$Base\inbox'`noutbox = '$Base\outbox'`n"
    [IO.File]::WriteAllText("$Base\speakeasyd.toml", $text) # UTF-8 without a byte order mark, in every PowerShell
}
Copy-Item -Force $WinSW $Service
Copy-Item -Force "$PSScriptRoot\speakeasyd.xml" "$Base\speakeasyd-service.xml"
if (-not (Get-Service speakeasyd -ErrorAction SilentlyContinue)) { & $Service install }
& $Service start

Write-Host "speakeasyd is running. Put audio into $Base\inbox."
Write-Host "Status:  & '$Base\venv\Scripts\speakeasyd.exe' status --state '$Base\state'"
