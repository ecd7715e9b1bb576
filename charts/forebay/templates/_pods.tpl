{{/* What all the platform's pods have in common. Takes root and component, and settings (nodeSelector and so on). */}}
{{- define "forebay.podSettings" -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  {{- with .root.Values.podSecurityContext }}
  {{- if .runAsUser }}
  runAsUser: {{ int64 .runAsUser }}
  {{- end }}
  {{- if .runAsGroup }}
  runAsGroup: {{ int64 .runAsGroup }}
  {{- end }}
  {{- if .fsGroup }}
  fsGroup: {{ int64 .fsGroup }}
  fsGroupChangePolicy: OnRootMismatch
  {{- end }}
  {{- end }}
  seccompProfile: {type: RuntimeDefault}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .settings.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .settings.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .settings.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .settings.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if .settings.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- $own := dict "matchLabels" (include "forebay.selector" . | fromYaml) }}
  {{- range .settings.topologySpreadConstraints }}
  - {{- toYaml (merge (dict) . (dict "labelSelector" $own)) | nindent 4 }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* The labels and annotations of a component's pods. Takes root, component, settings and annotations. */}}
{{- define "forebay.podMetadata" -}}
labels:
  {{- include "forebay.selector" . | nindent 2 }}
  {{- with merge (dict) .settings.podLabels .root.Values.commonLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with merge (dict) .annotations .settings.podAnnotations .root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* What every container of the platform has: restricted Pod Security, and nothing to write to but volumes. */}}
{{- define "forebay.containerSecurity" -}}
allowPrivilegeEscalation: false
capabilities: {drop: [ALL]}
readOnlyRootFilesystem: true
{{- end -}}

{{/*
Where a pod finds Kubernetes: the volume that automountServiceAccountToken would make, so that only the container that
needs it mounts it.
*/}}
{{- define "forebay.tokenVolume" -}}
name: kubernetes
projected:
  defaultMode: 0440
  sources:
    - serviceAccountToken: {path: token, expirationSeconds: 3607}
    - configMap: {name: kube-root-ca.crt, items: [{key: ca.crt, path: ca.crt}]}
    - downwardAPI: {items: [{path: namespace, fieldRef: {fieldPath: metadata.namespace}}]}
{{- end -}}

{{- define "forebay.tokenMount" -}}
{name: kubernetes, mountPath: /var/run/secrets/kubernetes.io/serviceaccount, readOnly: true}
{{- end -}}

{{/* The probes of gateway and controller. */}}
{{- define "forebay.probes" -}}
startupProbe:
  httpGet: {path: /healthz, port: metrics}
  periodSeconds: 1
  timeoutSeconds: 2
  failureThreshold: 60
readinessProbe:
  httpGet: {path: /readyz, port: metrics}
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 3
livenessProbe:
  httpGet: {path: /healthz, port: metrics}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
{{- end -}}

{{/* A budget that lets one pod go at a time. Takes root and component. */}}
{{- define "forebay.budget" -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  {{- include "forebay.metadata" . | nindent 2 }}
spec:
  maxUnavailable: 1
  # A pod that is not ready serves nobody and may always go.
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "forebay.selector" . | nindent 6 }}
{{- end -}}
