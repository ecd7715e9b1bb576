{{/*
The users of the bundled Valkey, with digests to be filled in at its start. Those of functions are made by the
controller while it runs, and are not in this file.
*/}}
{{- define "forebay.valkey.users" -}}
{{- $prefix := .Values.prefix -}}
user default off
user forebay-probe on nopass +ping
user forebay-controller on #CONTROLLER_DIGEST ~{{ $prefix }}:* &{{ $prefix }}:* +@all -@dangerous -@admin +acl|setuser +acl|deluser +acl|getuser +acl|users +acl|list +info +role +config|get
user forebay-gateway on #GATEWAY_DIGEST {{ include "forebay.valkey.gatewayRights" . }}
{{- end -}}

{{/* The rules of forebay_common/acl.py, where they are explained; a test holds them equal. */}}
{{- define "forebay.valkey.gatewayRights" -}}
{{- $rules := .Files.Get "files/gateway-rights.acl" -}}
{{- $rules | replace "PREFIX" .Values.prefix | splitList "\n" | compact | join " " -}}
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
appendfsync {{ $values.appendFsync }}
maxmemory {{ $values.maxMemory }}
# A queue must refuse what it cannot hold, never forget what it holds.
maxmemory-policy noeviction
lazyfree-lazy-user-del yes
{{- range $directive, $value := $values.config }}
{{ $directive }} {{ $value }}
{{- end }}
{{- end -}}
