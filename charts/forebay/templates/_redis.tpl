{{/* Whether the Redis is not the bundled one: non-empty when so. */}}
{{- define "forebay.redis.external" -}}
{{- if .Values.redis.external.url }}yes{{ end -}}
{{- end -}}

{{/* Whether it consists of several servers, which are not all in its URL: non-empty when so. */}}
{{- define "forebay.redis.several" -}}
{{- if regexMatch "^rediss?\\+" .Values.redis.external.url }}yes{{ end -}}
{{- end -}}

{{/* Where Redis is, as JSON: host, port, tls, db; of several servers their url. */}}
{{- define "forebay.redis.place" -}}
{{- if include "forebay.redis.several" . -}}
{{- dict "url" .Values.redis.external.url | toJson -}}
{{- else if include "forebay.redis.external" . -}}
{{- $url := urlParse .Values.redis.external.url -}}
{{- $host := regexReplaceAll ":[0-9]+$" $url.host "" | trimPrefix "[" | trimSuffix "]" -}}
{{- $port := regexFind ":[0-9]+$" $url.host | trimPrefix ":" | default "6379" -}}
{{- dict "host" $host "port" (int $port) "tls" (eq $url.scheme "rediss") "db" (trimPrefix "/" $url.path | default "0" | int) | toJson -}}
{{- else -}}
{{- dict "host" (include "forebay.serviceHost" (dict "root" . "suffix" "valkey")) "port" 6379 "tls" false "db" 0 | toJson -}}
{{- end -}}
{{- end -}}

{{/* The file of the authority that signed an external Redis' certificate, as mounted; empty: none. */}}
{{- define "forebay.redis.caFile" -}}
{{- if and (include "forebay.redis.external" .) .Values.redis.external.caSecretName }}/etc/forebay/redis/ca.crt{{ end -}}
{{- end -}}

{{/* The `redis` member of a component's configuration, as JSON. Takes root and component. */}}
{{- define "forebay.redis.settings" -}}
{{- $external := .root.Values.redis.external -}}
{{- $found := include "forebay.redis.place" .root | fromJson -}}
{{- with include "forebay.redis.caFile" .root -}}
{{- $_ := set $found "ca_file" . -}}
{{- end -}}
{{- if not (include "forebay.redis.external" .root) -}}
{{- $_ := set $found "username" (printf "forebay-%s" .component) -}}
{{- else -}}
{{- with get $external (printf "%sUsername" .component) -}}
{{- $_ := set $found "username" . -}}
{{- end -}}
{{- end -}}
{{- if or (not (include "forebay.redis.external" .root)) $external.secretName -}}
{{- $_ := set $found "password_file" "/etc/forebay/redis/password" -}}
{{- end -}}
{{- merge $found (include "forebay.redis.sentinelLogin" .root | fromJson) | toJson -}}
{{- end -}}

{{/* How sentinels let us in, as JSON. */}}
{{- define "forebay.redis.sentinelLogin" -}}
{{- $found := dict -}}
{{- with .Values.redis.external.sentinelUsername -}}
{{- $_ := set $found "sentinel_username" . -}}
{{- end -}}
{{- if .Values.redis.external.sentinelPasswordKey -}}
{{- $_ := set $found "sentinel_password_file" "/etc/forebay/redis/sentinel-password" -}}
{{- end -}}
{{- toJson $found -}}
{{- end -}}

{{/* The volume `redis`: this component's password, and the authority. Takes root and component. */}}
{{- define "forebay.redis.volume" -}}
{{- $external := .root.Values.redis.external -}}
name: redis
projected:
  defaultMode: 0440
  sources:
    {{- if not (include "forebay.redis.external" .root) }}
    - secret:
        name: {{ include "forebay.fullname" .root }}-redis
        items: [{key: {{ .component }}-password, path: password}]
    {{- else if $external.secretName }}
    - secret:
        name: {{ $external.secretName }}
        items:
          - {key: {{ get $external (printf "%sPasswordKey" .component) }}, path: password}
          {{- with $external.sentinelPasswordKey }}
          - {key: {{ . }}, path: sentinel-password}
          {{- end }}
          {{- if and (eq .component "controller") (eq .root.Values.redis.acl "shared") }}
          - {key: {{ $external.functionsPasswordKey }}, path: functions-password}
          {{- end }}
    {{- end }}
    {{- if include "forebay.redis.caFile" .root }}
    - secret:
        name: {{ $external.caSecretName }}
        items: [{key: {{ $external.caSecretKey }}, path: ca.crt}]
    {{- end }}
{{- end -}}

{{/* Where functions' pods find Redis, as JSON; with `redis.acl: shared` also as whom. */}}
{{- define "forebay.redis.forFunctions" -}}
{{- $found := include "forebay.redis.place" . | fromJson -}}
{{- with include "forebay.redis.caFile" . -}}
{{- $_ := set $found "ca_file" . -}}
{{- end -}}
{{- if eq .Values.redis.acl "shared" -}}
{{- with .Values.redis.external.functionsUsername -}}
{{- $_ := set $found "username" . -}}
{{- end -}}
{{- if .Values.redis.external.secretName -}}
{{- $_ := set $found "password_file" "/etc/forebay/redis/functions-password" -}}
{{- end -}}
{{- end -}}
{{- merge $found (include "forebay.redis.sentinelLogin" . | fromJson) | toJson -}}
{{- end -}}
