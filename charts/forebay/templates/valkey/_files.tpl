{{/*
The users of the bundled Valkey, with digests to be filled in at its start. Those of functions are made by the
controller while it runs, and are not in this file.

The default user is off, so that nobody can be it; but it is whom the server takes itself for while it reads its
append-only file, and transactions in there are executed only as far as its rules allow
(https://github.com/valkey-io/valkey/issues/3983): with none, a restart would lose whatever scripts have written.
*/}}
{{- define "forebay.valkey.users" -}}
user default off ~* &* +@all
user forebay-probe on nopass +ping
user forebay-controller on #CONTROLLER_DIGEST {{ include "forebay.valkey.rights" (dict "root" . "component" "controller") }}
user forebay-gateway on #GATEWAY_DIGEST {{ include "forebay.valkey.rights" (dict "root" . "component" "gateway") }}
{{- end -}}

{{/* A component's rules, in one line. The gateway's are those of forebay_common/acl.py, where they are explained. */}}
{{- define "forebay.valkey.rights" -}}
{{- $rules := .root.Files.Get (printf "files/%s-rights.acl" .component) -}}
{{- $rules | replace "PREFIX" .root.Values.prefix | splitList "\n" | compact | join " " -}}
{{- end -}}

{{- define "forebay.valkey.configuration" -}}
{{- $values := .Values.valkey -}}
bind * -::*
protected-mode no
port 6379
dir /data
aclfile /run/valkey/users.acl
# What is accepted lies in the append-only file; snapshots would only double the writes.
save ""
appendonly yes
appendfsync {{ ternary "always" "everysec" (eq .Values.durability "fsync") }}
maxmemory {{ $values.maxMemory }}
# A queue must refuse what it cannot hold, never forget what it holds.
maxmemory-policy noeviction
lazyfree-lazy-user-del yes
{{- range $directive, $value := $values.config }}
{{ $directive }} {{ $value }}
{{- end }}
{{- end -}}
