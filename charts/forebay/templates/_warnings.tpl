{{/* What somebody chose that is less safe than the default. */}}
{{- define "forebay.warnings" -}}
{{- if ne (toString .Values.auth) "required" }}

WARNING: auth is off. Whoever reaches the Services may call, change and create functions, which is running code here.
{{- end }}
{{- if eq .Values.redis.acl "shared" }}

WARNING: redis.acl is shared. All functions' runtimes use one Redis user, which reaches every function's queue and code;
only that user code does not hold its password keeps functions apart. Use a Redis with ACL rights where you can.
{{- end }}
{{- if not .Values.networkPolicy.enabled }}

WARNING: networkPolicy.enabled is false. Functions reach whatever any pod of this cluster reaches.
{{- else }}

NetworkPolicies are made, and count only if the cluster's network plugin enforces them.
{{- end }}
{{- if and .Values.namespaces .Values.networkPolicy.enabled (not .Values.networkPolicy.blockedCidrs) }}

WARNING: with a list of namespaces the controller may not read the nodes' addresses. List their networks in
networkPolicy.blockedCidrs, or functions with egress "cluster" reach them.
{{- end }}
{{- if include "forebay.redis.external" . }}
{{- if not (hasPrefix "rediss" .Values.redis.external.url) }}

WARNING: redis.external.url is without TLS: passwords and payloads cross the network in the clear. Use rediss://.
{{- end }}
{{- if not .Values.redis.external.secretName }}

WARNING: the external Redis asks for no password: whoever reaches it reads every queue.
{{- end }}
{{- else if not .Values.valkey.persistence.enabled }}

WARNING: valkey.persistence.enabled is false. Accepted async events, and code that came through the Lambda API, are lost
with the Valkey pod.
{{- end }}
{{- end -}}
