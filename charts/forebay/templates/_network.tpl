{{/* Rules of NetworkPolicies. */}}

{{/* The pods of a function, in whichever namespace. */}}
{{- define "forebay.peer.functions" -}}
namespaceSelector: {}
podSelector:
  matchLabels:
    app.kubernetes.io/part-of: {{ include "forebay.releaseId" . }}
    forebay.dev/role: function
{{- end -}}

{{/* Every pod that is no function's. */}}
{{- define "forebay.peer.others" -}}
namespaceSelector: {}
podSelector:
  matchExpressions:
    - {key: forebay.dev/role, operator: DoesNotExist}
{{- end -}}

{{/* The pods of a component. Takes root and component. */}}
{{- define "forebay.peer.component" -}}
namespaceSelector:
  matchLabels:
    kubernetes.io/metadata.name: {{ .root.Release.Namespace }}
podSelector:
  matchLabels:
    {{- include "forebay.selector" . | nindent 4 }}
{{- end -}}

{{- define "forebay.egress.dns" -}}
to:
  {{- toYaml .Values.networkPolicy.dns | nindent 2 }}
ports:
  {{- range .Values.networkPolicy.dnsPorts }}
  - {protocol: UDP, port: {{ int . }}}
  - {protocol: TCP, port: {{ int . }}}
  {{- end }}
{{- end -}}

{{/* To a component's port. Takes root, component and port. */}}
{{- define "forebay.egress.component" -}}
to:
  - {{- include "forebay.peer.component" . | nindent 4 }}
ports:
  - {protocol: TCP, port: {{ .port }}}
{{- end -}}

{{- define "forebay.egress.redis" -}}
{{- $place := include "forebay.redis.place" . | fromJson -}}
{{- if not (include "forebay.redis.external" .) -}}
{{ include "forebay.egress.component" (dict "root" . "component" "valkey" "port" (int $place.port)) }}
{{- else if include "forebay.redis.several" . -}}
to:
  {{- toYaml .Values.networkPolicy.externalRedis | nindent 2 }}
{{- else -}}
{{- $peers := .Values.networkPolicy.externalRedis -}}
{{- if and (not $peers) (regexMatch "^[0-9.]+$" $place.host) -}}
{{- $peers = list (dict "ipBlock" (dict "cidr" (printf "%s/32" $place.host))) -}}
{{- end -}}
{{- with $peers -}}
to:
  {{- toYaml . | nindent 2 }}
{{ end -}}
ports:
  - {protocol: TCP, port: {{ int $place.port }}}
{{- end -}}
{{- end -}}

{{- define "forebay.egress.apiServer" -}}
ports:
  {{- range .Values.networkPolicy.apiServerPorts }}
  - {protocol: TCP, port: {{ int . }}}
  {{- end }}
{{- end -}}

{{/* Who may read metrics. */}}
{{- define "forebay.ingress.metrics" -}}
from:
  {{- with .Values.networkPolicy.scrapers }}
  {{- toYaml . | nindent 2 }}
  {{- else }}
  - {{- include "forebay.peer.others" . | nindent 4 }}
  {{- end }}
ports:
  - {protocol: TCP, port: 8483}
{{- end -}}
