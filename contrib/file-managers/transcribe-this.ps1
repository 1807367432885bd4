<#
.SYNOPSIS
Copy files into the first inbox of speakeasyd. With -Install: put it into the context menu of Explorer, for this user.

.EXAMPLE
powershell -ExecutionPolicy Bypass -File transcribe-this.ps1 -Install
#>
param(
    [Parameter(ValueFromRemainingArguments = $true)][string[]]$Files,
    [string]$Speakeasyd = "speakeasyd",
    [switch]$Install
)
$ErrorActionPreference = "Stop"

if ($Install) {
    $program = (Get-Command $Speakeasyd).Source
    $key = "HKCU:\Software\Classes\SystemFileAssociations"
    foreach ($kind in "audio", "video") {
        $command = New-Item -Force -Path "$key\$kind\shell\speakeasyd\command"
        Set-ItemProperty -Path "$key\$kind\shell\speakeasyd" -Name "(default)" -Value "Transcribe this"
        Set-ItemProperty -Path $command.PSPath -Name "(default)" -Value (
            "powershell.exe -NoProfile -WindowStyle Hidden -ExecutionPolicy Bypass -File `"$PSCommandPath`" " +
            "-Speakeasyd `"$program`" `"%1`"")
    }
    exit
}

$env:PYTHONUTF8 = "1"
[Console]::OutputEncoding = [Text.Encoding]::UTF8
$inbox = (& $Speakeasyd config show --json | Out-String | ConvertFrom-Json).inboxes[0].path
foreach ($file in $Files) {
    $name = Split-Path -Leaf $file
    $target = Join-Path $inbox $name
    if (Test-Path -LiteralPath $target) { throw "$name is in the inbox already" }
    # Under a temporary name: the daemon takes a file when it is complete.
    Copy-Item -LiteralPath $file -Destination "$target.part"
    Move-Item -LiteralPath "$target.part" -Destination $target
}
