<#
.SYNOPSIS
Run the daemon for the Task Scheduler: without a window, with a log, again after a failure.

.PARAMETER Log
The log file. At each start of the daemon it is renamed if it has more than 10 MB; 8 older ones are kept.

.PARAMETER Command
The command line of the daemon.
#>
param(
    [Parameter(Mandatory = $true)][string]$Log,
    [Parameter(Mandatory = $true)][string]$Command
)
$Done = 0, 78 # stopped on request; a wrong configuration, which a restart does not fix
$env:PYTHONUTF8 = "1"

function Move-FullLog {
    if (-not (Test-Path $Log) -or (Get-Item $Log).Length -lt 10MB) { return }
    Move-Item $Log "$Log.$(Get-Date -Format yyyyMMddTHHmmss)"
    Get-ChildItem "$Log.*" | Sort-Object Name -Descending | Select-Object -Skip 8 | Remove-Item
}

while ($true) {
    Move-FullLog
    # cmd appends bytes; PowerShell 5 would write UTF-16 and wrap each line into an error.
    cmd.exe /d /s /c "$Command 2>> `"$Log`""
    if ($Done -contains $LASTEXITCODE) { exit $LASTEXITCODE }
    Start-Sleep -Seconds 5
}
