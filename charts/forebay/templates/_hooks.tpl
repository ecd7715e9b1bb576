{{/* Annotations of a hook's object. Takes event and weight. */}}
{{- define "forebay.hook" -}}
{{- dict
  "helm.sh/hook" .event
  "helm.sh/hook-weight" (.weight | toString)
  "helm.sh/hook-delete-policy" "before-hook-creation,hook-succeeded"
  "helm.sh/hook-output-log-policy" "hook-failed"
| toJson -}}
{{- end -}}

{{/*
The Job of a hook: a command of the controller's image, with the controller's configuration. Takes root, component,
suffix, event, module, and configuration (the ConfigMap's suffix).
*/}}
{{- define "forebay.hookJob" -}}
{{- $settings := merge (dict "podLabels" (dict) "podAnnotations" (dict)) .root.Values.hooks -}}
{{- $part := merge (dict "settings" $settings "annotations" (include "forebay.hook" (merge (dict "weight" 0) .) | fromJson)) . -}}
apiVersion: batch/v1
kind: Job
metadata:
  {{- include "forebay.metadata" $part | nindent 2 }}
spec:
  backoffLimit: 3
  activeDeadlineSeconds: {{ int $settings.deadlineSeconds }}
  template:
    metadata:
      {{- include "forebay.podMetadata" (merge (dict "annotations" (dict)) $part) | nindent 6 }}
    spec:
      restartPolicy: Never
      serviceAccountName: {{ include "forebay.fullname" .root }}-{{ .suffix }}
      {{- include "forebay.podSettings" $part | nindent 6 }}
      containers:
        - name: {{ .component }}
          image: {{ include "forebay.image" (dict "root" .root "image" .root.Values.controller.image) }}
          imagePullPolicy: {{ .root.Values.image.pullPolicy }}
          command: [python, -m, {{ .module }}, --config, /etc/forebay/config/controller.json]
          resources:
            {{- toYaml $settings.resources | nindent 12 }}
          securityContext:
            {{- include "forebay.containerSecurity" . | nindent 12 }}
          volumeMounts:
            - {name: config, mountPath: /etc/forebay/config, readOnly: true}
            - {{ include "forebay.tokenMount" . }}
      volumes:
        - name: config
          configMap: {name: {{ include "forebay.fullname" .root }}-{{ .configuration }}}
        - {{- include "forebay.tokenVolume" . | nindent 10 }}
{{- end -}}

{{/* The service account of a hook. Takes root, component, suffix and event. */}}
{{- define "forebay.hookAccount" -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  {{- include "forebay.metadata" (merge (dict "annotations" (include "forebay.hook" (merge (dict "weight" -10) .) | fromJson)) .) | nindent 2 }}
automountServiceAccountToken: false
{{- end -}}

{{/* The NetworkPolicy of a hook, which only talks to the API server. Takes root, component, suffix and event. */}}
{{- define "forebay.hookPolicy" -}}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  {{- include "forebay.metadata" (merge (dict "annotations" (include "forebay.hook" (merge (dict "weight" -10) .) | fromJson)) .) | nindent 2 }}
spec:
  podSelector:
    matchLabels:
      {{- include "forebay.selector" . | nindent 6 }}
  policyTypes: [Ingress, Egress]
  egress:
    - {{- include "forebay.egress.dns" .root | nindent 6 }}
    - {{- include "forebay.egress.apiServer" .root | nindent 6 }}
{{- end -}}
